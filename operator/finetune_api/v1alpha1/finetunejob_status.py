"""What a FineTuneJob's status says: progress, what was found and decided, figures, artifact, error."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from finetune_api.conditions import Conditions
from finetune_api.model import MAX_SENTENCE, ApiModel, Digest, Message, ShortText, Timestamp, Uri
from finetune_api.v1alpha1.provider import ProviderModel, ProviderStatus
from finetune_api.v1alpha1.references import EarlierAdapter, SecretRef

Metrics = Annotated[dict[str, FiniteFloat], Field(max_length=32)]


class TrainerMetric(ApiModel):
    """A figure of the running training."""

    name: Annotated[str, Field(max_length=128)]
    """Name, for example loss."""
    value: Annotated[str, Field(max_length=64)]
    """Value as text."""


class TrainerStatus(ApiModel):
    """Progress, in the shape of the Kubeflow Trainer's trainerStatus (KEP-2779)."""

    progress_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the steps done."""
    estimated_remaining_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds left at the current speed."""
    metrics: Annotated[list[TrainerMetric], Field(max_length=64)] | None = None
    """Latest figures."""
    message: Annotated[str, Field(max_length=MAX_SENTENCE)] | None = None
    """What is not as it should be while training goes on, for example a store that does not take the checkpoints."""
    last_updated_time: Timestamp | None = None
    """When the pod said so."""


class Checkpoint(ApiModel):
    """A committed checkpoint."""

    step: Annotated[int, Field(ge=0)]
    """Optimiser step."""
    uri: Uri
    """Its folder."""
    created_at: Timestamp
    """When its manifest was written."""


class Attempt(ApiModel):
    """One run of a stage's pod."""

    stage: Literal["Prepare", "Train", "Collect", "Cancel"]
    """Stage."""
    number: Annotated[int, Field(ge=1, le=100)]
    """Count within the stage, from 1."""
    start_time: Timestamp | None = None
    """When its Job was created."""
    completion_time: Timestamp | None = None
    """When it ended."""
    pull_failed_at: Timestamp | None = None
    """When its image was first seen not to be pulled; none once its container runs."""
    outcome: Annotated[str, Field(max_length=64)] | None = None
    """Succeeded, or the reason it ended."""
    message: Annotated[str, Field(max_length=MAX_SENTENCE)] | None = None
    """What was seen, and what the next attempt changes."""
    counts: bool = True
    """Whether it counts against maxRetries; a lost pod does not."""


class Choice(ApiModel):
    """A value the spec left out."""

    field: Annotated[str, Field(max_length=128)]
    """Path below spec, for example training.learningRate."""
    value: Annotated[str, Field(max_length=256)]
    """What was chosen."""
    reason: Annotated[str, Field(max_length=512)]
    """Why."""


class SplitStatistics(ApiModel):
    """One prepared split."""

    name: Literal["train", "validation", "test"]
    """Which."""
    rows: Annotated[int, Field(ge=0)]
    """Rows kept."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens of all rows, at most maxLength each."""
    longest: Annotated[int, Field(ge=0)] | None = None
    """Tokens of the longest row before cutting."""
    truncated: Annotated[int, Field(ge=0)] | None = None
    """Rows longer than maxLength."""


class DatasetStatus(ApiModel):
    """What the prepare stage found."""

    format: Annotated[str, Field(max_length=64)]
    """Shape of the rows."""
    splits: Annotated[list[SplitStatistics], Field(max_length=3)]
    """The prepared splits."""
    duplicates: Annotated[int, Field(ge=0)] = 0
    """Rows left out because they repeat another."""
    invalid: Annotated[int, Field(ge=0)] = 0
    """Rows left out because they are invalid (onInvalidRow: Drop)."""
    near_duplicates: Annotated[int, Field(ge=0)] = 0
    """Rows left out because they nearly repeat another (deduplicate: Near)."""
    out_of_range: Annotated[int, Field(ge=0)] = 0
    """Rows left out for minTokens or maxTokens."""
    overlapping: Annotated[int, Field(ge=0)] = 0
    """Training rows that share thirteen words in a row with a held-out row or a suite."""
    contaminated: Annotated[int, Field(ge=0)] = 0
    """Those of them that were left out (decontaminate: true)."""
    sensitive: Annotated[int, Field(ge=0)] = 0
    """Rows that hold what looks like a secret or like personal data; kinds and counts are in data/report.json."""
    mixed: Annotated[int, Field(ge=0)] = 0
    """Training rows that are general text (dataset.mix)."""
    resolved_digest: Digest | None = None
    """sha256 of resolved.json, which names every prepared file with its own sha256."""


Bytes = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]


class MemoryPlan(ApiModel):
    """Predicted peak of a training step on one GPU, in bytes, by what takes it."""

    gpu: Annotated[str, Field(max_length=64)]
    """The GPU it was planned for."""
    gpu_bytes: Bytes
    """Memory of that GPU."""
    weights_bytes: Bytes
    """Base model and adapter."""
    gradients_bytes: Bytes
    """Of the weights that learn."""
    optimizer_bytes: Bytes
    """State of the optimiser."""
    activations_bytes: Bytes
    """What the backward pass needs of the forward pass, and temporaries."""
    logits_bytes: Bytes
    """Output layer and loss."""
    allocated_bytes: Bytes
    """All of it, as torch counts it."""
    reserved_bytes: Bytes
    """What torch takes from the GPU for it."""


class MemoryMeasured(ApiModel):
    """Peak of the training as torch measured it, in bytes."""

    allocated_bytes: Bytes
    """torch.cuda.max_memory_allocated."""
    reserved_bytes: Bytes
    """torch.cuda.max_memory_reserved."""


class PlanStatus(ApiModel):
    """What was decided before training."""

    choices: Annotated[list[Choice], Field(max_length=64)]
    """Values the spec left out."""
    steps: Annotated[int, Field(ge=0)] | None = None
    """Optimiser steps."""
    packing_efficiency: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the sequences' places that hold a token."""
    memory: MemoryPlan | None = None
    """Predicted peak; where gpuModel or gpuMemory is stated and the architecture is one that can be counted."""
    measured: MemoryMeasured | None = None
    """Measured peak."""
    largest_micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """The largest micro batch that would fit the stated GPU."""
    estimated_seconds: Annotated[int, Field(ge=0)] | None = None
    """Rough length of the training on the stated GPU."""


class ValidationStatus(ApiModel):
    """What the loss on the validation rows came to during the training."""

    loss: FiniteFloat
    """Of the published step: the evaluation's Loss, for dpo, kto and orpo the loss they lower."""
    published_step: Annotated[int, Field(ge=0)]
    """Step whose weights are published."""
    last_step: Annotated[int, Field(ge=0)]
    """Step after which training ended."""
    message: Annotated[str, Field(max_length=512)]
    """Where it ended, why, and what is published."""


class GateResult(ApiModel):
    """One gate rule's verdict."""

    metric: Annotated[str, Field(max_length=64)]
    """Metric."""
    passed: bool
    """Whether it held."""
    message: Annotated[str, Field(max_length=512)]
    """The figures it was decided on."""


class Diagnosis(ApiModel):
    """Something about the training that stands out."""

    kind: Literal["LearningRateTooHigh", "Instability", "Overfitting", "Underfitting", "DataTooSmall", "Forgetting"]
    """What it looks like."""
    message: Annotated[str, Field(max_length=512)]
    """The numbers it was seen in, and what to change."""


class SuiteStatus(ApiModel):
    """Base and tuned model on the rows of a suite."""

    name: Annotated[str, Field(max_length=40)]
    """Its name."""
    rows: Annotated[int, Field(ge=0)]
    """How many."""
    base: Metrics | None = None
    """The base's figures."""
    tuned: Metrics
    """The tuned model's figures."""


class EvaluationStatus(ApiModel):
    """Base and tuned model on the same held-out rows."""

    split: Annotated[str, Field(max_length=32)]
    """Which rows."""
    rows: Annotated[int, Field(ge=0)]
    """How many."""
    base: Metrics | None = None
    """The base's figures."""
    tuned: Metrics
    """The tuned model's figures."""
    previous: Metrics | None = None
    """Those of the previous adapter."""
    majority_class: Annotated[float, Field(ge=0, le=1)] | None = None
    """Accuracy of always answering the most frequent training label."""
    suites: Annotated[list[SuiteStatus], Field(max_length=4)] | None = None
    """The same on rows of other tasks."""
    gate: Annotated[list[GateResult], Field(max_length=16)] | None = None
    """Each rule's verdict."""
    diagnosis: Annotated[list[Diagnosis], Field(max_length=8)] | None = None
    """What stands out in curves and figures; rules of thumb, no gate depends on them."""


Servable = Literal["Adapter", "Merged", "No"]


class ArtifactStatus(ApiModel):
    """What was stored."""

    kind: Literal["Adapter", "Model", "Endpoint"]
    """An adapter for the base, a whole model, or a model that lives at a provider."""
    uri: Uri
    """Its folder."""
    digest: Digest
    """sha256 of the folder's manifest.json."""
    provider: ProviderModel | None = None
    """Endpoint: where the model lives and what it is called there."""
    servable: Servable | None = None
    """Adapter: by a server that has its base, vLLM among them. Merged: only as a whole model. No: by no server."""
    servable_reason: Annotated[str, Field(max_length=512)] | None = None
    """Why so."""
    manifest_uri: Uri | None = None
    """Manifest of the whole job."""


class ResolvedBaseModel(ApiModel):
    """The base model, as resolved."""

    uri: Uri | None = None
    """Address; none for fromConfig."""
    revision: ShortText | None = None
    """Revision of an hf:// model."""
    digest: Digest | None = None
    """sha256 of its manifest.json, where it has one."""
    secret_ref: SecretRef | None = None
    """Credentials to read it."""
    job_uid: Annotated[str, Field(max_length=64)] | None = None
    """uid of the job that made it."""


class JobError(ApiModel):
    """Why the job failed."""

    code: Annotated[str, Field(max_length=64)]
    """One of the Failed reasons."""
    message: Message
    """What was seen, where, and what to do."""


class FineTuneJobStatus(ApiModel):
    """What happened so far."""

    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = None
    """Generation this status is about."""
    conditions: Conditions | None = None
    """Accepted, DataValidated, Planned, Suspended, Running, ArtifactStored, Evaluated, GatePassed, Complete, Failed, Finished; Stalled where
    nothing happens until the user acts, DeployConflict where spec.deploy cannot have its AdapterDeployment."""
    state: Annotated[str, Field(max_length=64)] | None = None
    """One word for the column."""
    message: Message | None = None
    """The most telling condition's sentence, for the column."""
    method: Annotated[str, Field(max_length=64)] | None = None
    """Method and adapter, for the column."""
    backend: Annotated[str, Field(max_length=64)] | None = None
    """Backend, for the column."""
    base: Annotated[str, Field(max_length=1024)] | None = None
    """Base model, for the column."""
    progress: Annotated[str, Field(max_length=8)] | None = None
    """Progress, for the column."""
    loss: Annotated[str, Field(max_length=32)] | None = None
    """Latest loss, for the column."""
    eta: Annotated[str, Field(max_length=32)] | None = None
    """Time left, for the column."""
    start_time: Timestamp | None = None
    """When the configuration was frozen."""
    completion_time: Timestamp | None = None
    """When the job finished."""
    trainer_status: TrainerStatus | None = None
    """Progress as the train pod reports it."""
    reward_model: ResolvedBaseModel | None = None
    """The reward model, as resolved."""
    base_model: ResolvedBaseModel | None = None
    """The base model, as resolved."""
    initial_adapter: EarlierAdapter | None = None
    """The adapter to go on from, as resolved."""
    previous_adapter: EarlierAdapter | None = None
    """The adapter to compare with, as resolved."""
    dataset: DatasetStatus | None = None
    """What the prepare stage found."""
    plan: PlanStatus | None = None
    """What was decided before training."""
    attempts: Annotated[list[Attempt], Field(max_length=32)] | None = None
    """Runs of the stages' pods, oldest first."""
    checkpoints: Annotated[list[Checkpoint], Field(max_length=16)] | None = None
    """Latest committed checkpoints."""
    resumed_from_step: Annotated[int, Field(ge=0)] | None = None
    """Step the current attempt went on from."""
    trained_tokens: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = None
    """Tokens trained on."""
    validation: ValidationStatus | None = None
    """Where training ended and which step is published, where training measured the validation loss."""
    skipped_batch: Message | None = None
    """Step and rows of the batch training left out, where training.onNonFiniteLoss is SkipBatch and its loss was no number."""
    tracking_error: Message | None = None
    """Which tracker of spec.tracking failed, and why; the artifact is published all the same."""
    provider: ProviderStatus | None = None
    """A delegated job: the provider's side of it."""
    evaluation: EvaluationStatus | None = None
    """Base against tuned."""
    artifact: ArtifactStatus | None = None
    """What was stored."""
    error: JobError | None = None
    """Why the job failed."""
