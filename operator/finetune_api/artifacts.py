"""What lies in object storage, and where: the layout of a job's folder and the manifests that make it trustworthy.

    <output.uri>/<namespace>/<job>/<uid>/
      data/train.jsonl, validation.jsonl, test.jsonl, tokenizer/, report.json, preview.txt, manifest.json     written by prepare
      resolved.json                                                                 every value decided
      checkpoints/step-000123/…, manifest.json                                      manifest last: without it, it does not exist
      adapter/ or model/…, manifest.json                                            what is served
      endpoint/endpoint.json, manifest.json                                         instead, of a model that lives at a provider
      learning-rate.json                                                            where one was searched for
      metrics.jsonl  evaluation.json  report.html  tracking/…
      manifest.json                                                                 everything above; written last of all

The digest of an artifact is the sha256 of the bytes of its folder's manifest.json.
"""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.matrix import MethodName
from finetune_api.model import ApiModel, Digest, Message, Uri
from finetune_api.v1alpha1.adapter import AdapterType
from finetune_api.v1alpha1.base_model import FromConfig
from finetune_api.v1alpha1.dataset import DatasetSpec
from finetune_api.v1alpha1.evaluation import EvaluationSpec, Metric
from finetune_api.v1alpha1.finetunejob_status import (
    ArtifactStatus,
    Choice,
    EvaluationStatus,
    MemoryMeasured,
    PlanStatus,
    ResolvedBaseModel,
    SplitStatistics,
    ValidationStatus,
)
from finetune_api.v1alpha1.output import CardSpec
from finetune_api.v1alpha1.provider import ProviderModel, ProviderStatus
from finetune_api.v1alpha1.references import EarlierAdapter, SecretRef
from finetune_api.v1alpha1.tracking import TrackingSpec
from finetune_api.v1alpha1.training import MethodSpec, NonFinitePolicy, Optimizer, Scheduler

MANIFEST = "manifest.json"
RESOLVED = "resolved.json"
DATA = "data"
TOKENIZER = "data/tokenizer"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
MODEL = "model"
ENDPOINT = "endpoint"
ENDPOINT_FILE = "endpoint.json"
"""In the folder endpoint: a ProviderModel."""
DATA_REPORT = "data/report.json"
"""finetune_api.data_report.DataReport."""
DATA_PAGE = "data-report.html"
"""The same for people."""
INVALID_ROWS = "invalid-rows.jsonl"
"""Every finetune_api.data_report.InvalidRow, one a line; also where the job ends because of them."""
DATA_PREVIEW = "data/preview.txt"
"""The first rows token by token, with what is learned marked; for a person to read."""
RATE_SEARCH = "learning-rate.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
REPORT = "report.html"
TRACKING = "tracking"
"""Folder of the files that experiment trackers read."""


def job_folder(output_uri: str, namespace: str, job: str, uid: str) -> str:
    """URI of a job's folder, without a trailing slash."""
    return f"{output_uri.rstrip('/')}/{namespace}/{job}/{uid}"


def checkpoint_folder(step: int) -> str:
    """Key of a checkpoint's folder below the job's."""
    return f"{CHECKPOINTS}/step-{step:06d}"


class FileEntry(ApiModel):
    """One file of a folder."""

    path: str
    """Path below the folder, with '/'."""
    size: int
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hex digest of the bytes."""


class Manifest(ApiModel):
    """Lists every file of a folder; written last, so that a folder without a valid one does not exist."""

    kind: Literal["Data", "Checkpoint", "Adapter", "Model", "Endpoint", "Job"]
    """What the folder holds."""
    files: list[FileEntry]
    """Every file but the manifest, sorted by path."""
    base_model: ResolvedBaseModel | None = None
    """Adapter: the base it belongs to."""
    provider: ProviderModel | None = None
    """Endpoint: where the model lives and what it is called there."""
    step: int | None = None
    """Checkpoint: optimiser step."""
    job: "JobRecord | None" = None
    """Job: how it came to be, and what came out."""


class JobRecord(ApiModel):
    """How an artifact came to be; the collect stage reads the job's outcome from it."""

    namespace: str
    name: str
    uid: str
    image: str
    """Trainer image, pinned by digest."""
    versions: dict[str, str]
    """Versions of the libraries that made it."""
    resolved_digest: Digest
    """sha256 of resolved.json."""
    data_digest: Digest
    """sha256 of data/manifest.json."""
    artifact: ArtifactStatus
    evaluation: EvaluationStatus | None = None
    gate_passed: bool
    trained_tokens: int
    steps: int
    loss: float | None = None
    """Last training loss."""
    peak_memory: MemoryMeasured | None = None
    """Of the training, where it ran on a GPU."""
    validation: ValidationStatus | None = None
    """Where its loss was measured during the training."""
    skipped_batch: Message | None = None
    """Where training left one out."""
    tracking_error: Message | None = None
    """Which tracker failed, and why."""
    learning_rate: Choice | None = None
    """Where one was searched for."""
    provider: ProviderStatus | None = None
    """A delegated job: the provider's last word."""


class ResolvedSearch(ApiModel):
    """A search for the learning rate with nothing left out."""

    steps: int
    lowest: float
    highest: float


class RateSearch(ApiModel):
    """learning-rate.json: what a search came to."""

    learning_rate: float
    reason: Annotated[str, Field(max_length=512)]
    rates: list[float]
    """Of the steps that were taken."""
    losses: list[float]
    """Of their batches, smoothed."""

    def choice(self) -> Choice:
        """As the plan shows it."""
        return Choice(field="training.learningRate", value=f"{self.learning_rate:g}", reason=self.reason)


class ResolvedTraining(ApiModel):
    """Hyperparameters with nothing left out. Batch sizes count rows, or packed sequences."""

    epochs: float | None = None
    max_steps: int | None = None
    steps: int
    """Optimiser steps in all, however they were asked for."""
    learning_rate: float
    """Peak; where one is searched for, the usual one, which the train stage replaces."""
    learning_rate_search: ResolvedSearch | None = None
    batch_size: int
    micro_batch_size: int
    max_length: int
    optimizer: Optimizer = "AdamW"
    scheduler: Scheduler
    decay_ratio: float = 0.0
    """Of WSD."""
    warmup_ratio: float
    weight_decay: float
    adam_beta2: float
    max_grad_norm: float
    neftune_alpha: float = 0.0
    label_smoothing: float = 0.0
    on_non_finite_loss: NonFinitePolicy = "Fail"
    gradient_checkpointing: bool
    fused_kernels: bool = False
    """Of Liger, on a GPU."""
    precision: Literal["BFloat16", "Float32", "Auto"]
    """Auto: BFloat16 where the device has it; only the train pod can see the device."""
    seed: int
    checkpoint_every_steps: int
    keep_checkpoints: int
    """The newest so many."""
    evaluate_every_steps: int = 0
    """On the validation rows; 0: never."""
    publish_best: bool = False
    patience: int | None = None
    """Of early stopping."""
    min_delta: float = 0.0
    packing: bool
    assistant_only_loss: bool


class ResolvedAdapterSpec(ApiModel):
    """Adapter settings with nothing left out; those of another type do not count."""

    type: AdapterType
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("all-linear",)
    """Empty: those the adapter was made for (IA3)."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, int] = Field(default_factory=dict)
    layers: tuple[int, ...] = ()
    """Empty: all."""
    new_tokens: tuple[str, ...] = ()
    """Added to the base's vocabulary, in this order."""
    virtual_tokens: int = 0
    frozen_layers: int = 0
    learning_rate_ratio: float = 1.0
    experts: bool = False
    """Those of a mixture learn too."""
    initial: EarlierAdapter | None = None
    """To go on from, by uri and digest."""


PreparedFormat = Literal["Messages", "PromptCompletion", "Preference", "Unpaired", "Text", "Classification"]
"""Shape of a prepared row; other formats become one of these (Alpaca: PromptCompletion; ShareGPT and Vertex: Messages).

    Messages          {"messages": [{"role", "content"}, …], "tools"?: […]}; the last message is the assistant's
    PromptCompletion  {"prompt": text, "completion": text}
    Preference        {"prompt", "chosen", "rejected"}: three texts, or three lists of messages
    Unpaired          {"prompt", "completion", "label": bool}: two texts, or two lists of messages
    Text              {"text"}
    Classification    {"text", "labels": [text, …]}
"""


class PreparedSplit(ApiModel):
    """A prepared file: JSON lines of the prepared format."""

    file: str
    """Path below the job's folder, for example data/train.jsonl."""
    sha256: str
    statistics: SplitStatistics


class PreparedSuite(ApiModel):
    """A prepared evaluation suite."""

    name: str
    file: str
    """Path below the job's folder."""
    sha256: str
    rows: int
    format: Literal["Messages", "PromptCompletion", "Text"]
    metrics: list[Metric]
    max_new_tokens: int
    """Of an answer: those of its longest reference."""


class ResolvedRewardModel(ApiModel):
    """A reward model that was checked."""

    folder: Uri
    """Of the job that made it."""
    key: Literal["adapter", "model"]
    """Of the artifact below it."""
    digest: Digest
    secret_ref: SecretRef | None = None
    adapter: AdapterType
    base: ResolvedBaseModel | None = None
    """Of an adapter, with the credentials to read it."""
    max_length: int
    """Tokens of the longest text it learned from; of a longer one the end is scored."""


class Resolved(ApiModel):
    """resolved.json: what the train stage reads, beside the prepared data, and nothing else."""

    namespace: str
    name: str
    uid: str
    method: MethodName
    method_settings: MethodSpec = MethodSpec()
    """The settings of the method: its member, filled in."""
    format: PreparedFormat
    """Shape of the prepared rows."""
    day: date | None = None
    """Of the prepare stage, where the base's chat template asks for the date: both stages tell it this one."""
    base_model: ResolvedBaseModel
    from_config: FromConfig | None = None
    reward_model: ResolvedRewardModel | None = None
    dataset: DatasetSpec
    splits: list[PreparedSplit]
    data_digest: Digest
    """sha256 of data/manifest.json."""
    adapter: ResolvedAdapterSpec
    training: ResolvedTraining
    evaluation: EvaluationSpec
    """metrics and max_new_tokens filled in."""
    forecast: PlanStatus | None = None
    """What the training was predicted to take."""
    suites: list[PreparedSuite] = Field(default_factory=list)
    """Rows of other tasks."""
    tracking: TrackingSpec | None = None
    card: CardSpec | None = None
    """For the model card."""
    choices: list[Choice]
    output_folder: Uri
    """The job's folder."""


class InPlace(ApiModel):
    """A split whose source file the provider reads where it lies: it holds just the split's rows, in the provider's own shape."""

    split: Literal["train", "validation"]
    uri: Uri
    """gs://bucket/key"""
    generation: int
    """The version of the object that was checked."""


class ResolvedDelegation(ApiModel):
    """resolved.json of a delegated job: the prepared data; hyperparameters are sent to the provider as the spec states them."""

    namespace: str
    name: str
    uid: str
    method: Literal["sft", "dpo"]
    format: Literal["Messages", "PromptCompletion", "Preference"]
    """Shape of the prepared rows."""
    base_model: ResolvedBaseModel
    splits: list[PreparedSplit]
    in_place: list[InPlace]
    """Splits that need no upload."""
    data_digest: Digest
    """sha256 of data/manifest.json."""
    evaluation: EvaluationSpec
    """metrics and max_new_tokens filled in."""
    seed: int
    """Of the split and the gate's bootstrap."""
    choices: list[Choice]
    output_folder: Uri
    """The job's folder."""
