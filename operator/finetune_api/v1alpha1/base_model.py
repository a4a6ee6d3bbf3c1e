"""What a job starts from: a model by reference, or random weights of an architecture."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, Digest, ShortText, Uri, cel, exactly_one
from finetune_api.v1alpha1.references import JobRef, SecretRef


class FromConfig(ApiModel):
    """Random weights of a stated Llama architecture; the tokenizer is trained on the dataset."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            ("self.hiddenSize % self.attentionHeads == 0", "hiddenSize must be a multiple of attentionHeads"),
            (
                "!has(self.keyValueHeads) || self.attentionHeads % self.keyValueHeads == 0",
                "attentionHeads must be a multiple of keyValueHeads",
            ),
        )
    )

    architecture: Literal["Llama"]
    """Model family."""
    vocabulary_size: Annotated[int, Field(ge=300, le=262_144)]
    """Entries of the byte-level BPE vocabulary."""
    hidden_size: Annotated[int, Field(ge=8, le=32_768)]
    """Width of the residual stream."""
    intermediate_size: Annotated[int, Field(ge=8, le=131_072)]
    """Width of the feed-forward layer."""
    layers: Annotated[int, Field(ge=1, le=256)]
    """Number of decoder layers."""
    attention_heads: Annotated[int, Field(ge=1, le=512)]
    """Query heads."""
    key_value_heads: Annotated[int, Field(ge=1, le=512)] | None = None
    """Key and value heads; left out, attentionHeads."""
    max_position_embeddings: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    """Longest sequence; left out, 2048."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares the embedding."""
    initializer_range: Annotated[float, Field(gt=0, le=1)] | None = None
    """Standard deviation of the initial weights; left out, 0.02. Small models learn with more (0.06)."""


class BaseModelSpec(ApiModel):
    """The model to start from."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "jobRef", "fromConfig"),
            (
                "!has(self.uri) || self.uri.matches('^(hf|s3|vertex|openai)://.+')",
                "uri starts with hf:// (hf://owner/name) or s3:// (s3://bucket/folder); with backend vertex or openai it is "
                "vertex:// or openai:// and the provider's own name of the model",
            ),
            (
                "!has(self.revision) || (has(self.uri) && self.uri.startsWith('hf://'))",
                "revision belongs to an hf:// uri",
            ),
            ("!has(self.digest) || has(self.uri)", "digest belongs to a uri; a jobRef brings its own"),
            ("!has(self.secretRef) || !has(self.fromConfig)", "secretRef is for a uri or a jobRef"),
        )
    )

    uri: Uri | None = None
    """hf://owner/name, or s3://bucket/folder holding config.json, tokenizer and safetensors. With backend vertex or openai:
    vertex://gemini-…, vertex://projects/…/models/… (a tuned one to go on from), openai://gpt-…."""
    revision: ShortText | None = None
    """Branch, tag or commit of an hf:// model."""
    digest: Digest | None = None
    """Expected sha256 of the folder's manifest.json (s3:// artifacts of this operator); verified before training."""
    job_ref: JobRef | None = None
    """Start from the model another FineTuneJob produced; waits until it is Complete and its gate passed."""
    from_config: FromConfig | None = None
    """Start from random weights; only with method cpt and adapter Full."""
    secret_ref: SecretRef | None = None
    """Credentials to read it; with a jobRef left out, that job's output secret."""
