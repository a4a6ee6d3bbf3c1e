"""Where rows come from, what shape they have, how they are split and checked."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, Name, ShortText, Uri, cel, exactly_one
from finetune_api.v1alpha1.references import SecretRef

Format = Literal[
    "Auto",
    "Messages",
    "PromptCompletion",
    "Alpaca",
    "ShareGPT",
    "Vertex",
    "Preference",
    "Unpaired",
    "Text",
    "Classification",
]
Fraction = Annotated[float, Field(gt=0, lt=1)]
ROWS_URI = (
    "self.uri.matches('^((s3|gs)://[^/]+|hf://datasets/[^/@]+/[^/]+)/.+')",
    "uri is s3://bucket/key, gs://bucket/key or hf://datasets/owner/name/file",
)
"""The rule of every address of rows: what the prepare stage reads."""


class ConfigMapSource(ApiModel):
    """A small dataset in a ConfigMap of the same namespace."""

    name: Name
    """Name of the ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """Key that holds the rows; its suffix says how, and without one they are JSON lines."""


class PersistentVolumeClaimSource(ApiModel):
    """Files on a volume of the same namespace, mounted read-only."""

    claim_name: Name
    """Name of the PersistentVolumeClaim."""
    path: Annotated[str, Field(min_length=1, max_length=1024)]
    """Path of the file, folder or pattern below the volume's root."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!self.path.startsWith('/') && !self.path.contains('..')",
                "path is relative to the volume's root, without '..'",
            ),
        )
    )


class Source(ApiModel):
    """Files of rows: .jsonl, .json, .parquet, .csv or .arrow, each also with .gz, .zst or .bz2. A path may hold the placeholders * and ?
    (within a folder) and ** (across folders), or end with a slash, which means every file below it."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "configMap", "persistentVolumeClaim"),
            (f"!has(self.uri) || {ROWS_URI[0]}", ROWS_URI[1]),
            ("!has(self.secretRef) || has(self.uri)", "secretRef belongs to a uri"),
        )
    )

    uri: Uri | None = None
    """s3://bucket/key, gs://bucket/key, or hf://datasets/owner/name/file, with a revision hf://datasets/owner/name@v1/file; the key may
    be a pattern. For gs:// the Secret has credentials.json; without a Secret the pod's own identity counts."""
    config_map: ConfigMapSource | None = None
    """A key of a ConfigMap."""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A file on a volume."""
    secret_ref: SecretRef | None = None
    """Credentials to read the uri."""


class Split(ApiModel):
    """Fractions cut from the training rows by a seeded shuffle."""

    validation: Fraction | None = None
    """Share of the rows watched during training, for example 0.1."""
    test: Fraction | None = None
    """Share of the rows held out for the evaluation, for example 0.1."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seed of the shuffle; left out, training.seed."""


class Columns(ApiModel):
    """The dataset's own column names, where they differ from the format's."""

    messages: ShortText | None = None
    """Column holding the list of messages."""
    conversations: ShortText | None = None
    """Column holding the turns of a ShareGPT conversation."""
    contents: ShortText | None = None
    """Column holding the contents of a Vertex conversation."""
    prompt: ShortText | None = None
    """Column holding the prompt (Alpaca: instruction)."""
    completion: ShortText | None = None
    """Column holding the answer (Alpaca: output)."""
    chosen: ShortText | None = None
    """Column holding the better answer of a preference."""
    rejected: ShortText | None = None
    """Column holding the worse answer of a preference."""
    label: ShortText | None = None
    """Column holding the verdict (Unpaired: true or false) or the class (Classification)."""
    labels: ShortText | None = None
    """Column holding the list of classes, where a text can have several (Classification)."""
    text: ShortText | None = None
    """Column holding raw text, or the text to classify."""


class Mix(ApiModel):
    """General text among the training rows, against forgetting."""

    source: Source
    """Rows of the dataset's format, with the columns of dataset.columns."""
    share: Fraction
    """Share of the training tokens that are general ones, for example 0.1. Rows are drawn by dataset.split.seed, each at most once."""


class Suite(ApiModel):
    """Texts of an evaluation; rows of any shape, of which all texts count."""

    model_config = ConfigDict(json_schema_extra=cel(ROWS_URI))

    name: ShortText
    """What the report calls it."""
    uri: Uri
    """Its files, as in a source."""
    secret_ref: SecretRef | None = None
    """Credentials to read them."""


class Quality(ApiModel):
    """What happens to rows that should not be trained on."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.minTokens) || !has(self.maxTokens) || self.minTokens <= self.maxTokens",
                "minTokens is at most maxTokens",
            ),
        )
    )

    deduplicate: Literal["None", "Exact", "Near"] | None = None
    """Exact drops rows that repeat an earlier one, Near also those that share four fifths of their runs of five words with one (MinHash);
    left out, Exact. A row in test or validation is never kept in train."""
    on_invalid_row: Literal["Fail", "Drop"] | None = None
    """Fail refuses the dataset, naming file, line and field; Drop leaves the rows out and counts them. Left out, Fail."""
    decontaminate: bool | None = None
    """True leaves out training rows that share thirteen words in a row with a held-out row or a suite; left out, they are only counted."""
    suites: Annotated[list[Suite], Field(min_length=1, max_length=8)] | None = None
    """Evaluation suites that must not be in the training rows."""
    min_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Rows with fewer tokens are left out and counted."""
    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Rows with more tokens are left out and counted; without it they are cut at training.maxLength."""


class DatasetSpec(ApiModel):
    """The rows to learn from."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.split) || !has(self.split.validation) || !has(self.validation)",
                "validation is a source or a share of the split, not both",
            ),
            (
                "!has(self.split) || !has(self.split.test) || !has(self.test)",
                "test is a source or a share of the split, not both",
            ),
            (
                "!has(self.split) || (has(self.split.validation) ? self.split.validation : 0.0)"
                " + (has(self.split.test) ? self.split.test : 0.0) < 1.0",
                "the split must leave rows to train on",
            ),
        )
    )

    train: Source
    """Rows to train on."""
    validation: Source | None = None
    """Rows watched during training."""
    test: Source | None = None
    """Rows held out for the evaluation."""
    split: Split | None = None
    """Cut validation and test from the training rows instead."""
    mix: Mix | None = None
    """General text to mix in, so that a model keeps what it knew (method cpt)."""
    format: Format | None = None
    """Shape of a row; left out or Auto, told by the first row's fields."""
    columns: Columns | None = None
    """Column names that differ from the format's."""
    quality: Quality | None = None
    """Duplicates and invalid rows."""
