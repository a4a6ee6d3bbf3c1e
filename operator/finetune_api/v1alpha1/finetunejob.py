"""FineTuneJob: data and a base model in, a tuned, evaluated, checksummed artifact out."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import (
    ApiModel,
    Quantity,
    ShortText,
    Uri,
    at_most_one,
    cel,
    exactly_one,
)
from finetune_api.v1alpha1.adapter import AdapterSpec
from finetune_api.v1alpha1.adapterdeployment import Server, Traffic
from finetune_api.v1alpha1.base_model import BaseModelSpec
from finetune_api.v1alpha1.dataset import DatasetSpec
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob_status import FineTuneJobStatus
from finetune_api.v1alpha1.output import CardSpec
from finetune_api.v1alpha1.provider import OpenAIBackend, VertexBackend
from finetune_api.v1alpha1.references import PodOptions, Resources, SecretRef
from finetune_api.v1alpha1.tracking import TrackingSpec
from finetune_api.v1alpha1.training import MethodSpec, TrainingSpec

Seconds = Annotated[int, Field(ge=0, le=31_536_000)]


class OutputSpec(ApiModel):
    """Where the artifact goes."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.uri.matches('^s3://[^/]+')",
                "uri is s3://bucket or s3://bucket/folder; other stores are not supported yet",
            ),
        )
    )

    uri: Uri
    """s3://bucket/folder; the job writes below <uri>/<namespace>/<job>/<uid>/."""
    secret_ref: SecretRef | None = None
    """Credentials to write it."""
    card: CardSpec | None = None
    """What the artifact's model card says of licence and use."""


GpuModel = Literal["T4", "L4", "A10", "L40S", "A100-40GB", "A100-80GB", "H100-80GB", "H200", "B200"]


class KubernetesBackend(ApiModel):
    """Run in pods of this cluster."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            at_most_one("gpuModel", "gpuMemory"),
            (
                "!(has(self.gpuModel) || has(self.gpuMemory)) || (has(self.gpus) && self.gpus > 0)",
                "gpuModel and gpuMemory describe the GPUs: set gpus too",
            ),
        )
    )

    gpus: Annotated[int, Field(ge=0, le=16)] | None = None
    """GPUs (nvidia.com/gpu) of each train pod, and training processes in it; left out, 0: one process on the CPU."""
    nodes: Annotated[int, Field(ge=1, le=64)] | None = None
    """Train pods, each with so many GPUs; left out, 1. training.batchSize is over all of them."""
    gpu_model: GpuModel | None = None
    """Which GPU the pod will get: memory is planned for it, and a job that cannot fit is refused before it takes one."""
    gpu_memory: Quantity | None = None
    """Memory of a GPU that is not among the models, for example 48Gi."""
    image: ShortText | None = None
    """Trainer image; any image that keeps the pod contract (docs/pod-contract.md)."""
    resources: Resources | None = None
    """What the train container asks for; to prepare the data as much memory may be used, and at least 4Gi."""
    service_account_name: ShortText | None = None
    """ServiceAccount of the pods; it must carry the annotation finetune.dev/allow: "true"."""
    pod: PodOptions | None = None
    """Where the pods run."""

    @property
    def processes(self) -> int:
        """Of a training: one per GPU, and at least one per pod."""
        return (self.nodes or 1) * max(1, self.gpus or 0)


class BackendSpec(ApiModel):
    """Where it runs; exactly one member."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("kubernetes", "vertex", "openai")))

    kubernetes: KubernetesBackend | None = None
    """Pods of this cluster."""
    vertex: VertexBackend | None = None
    """Vertex AI tuning."""
    openai: OpenAIBackend | None = None
    """A service with OpenAI's fine-tuning API."""


class DeployTemplate(ApiModel):
    """An AdapterDeployment's spec without the adapter: that is this job's."""

    server: Server | None = None
    """The model server."""
    traffic: Traffic | None = None
    """Public model name, and how requests for it are split."""


class DeploySpec(ApiModel):
    """Create an AdapterDeployment when the gate has passed."""

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
    """Name of the AdapterDeployment; one that exists is left alone (condition DeployConflict)."""
    template: DeployTemplate | None = None
    """Its settings."""


class FineTuneJobSpec(ApiModel):
    """What to do. Needed are baseModel, dataset.train and output; frozen once the job has started, but for suspend, cancel,
    ttlSecondsAfterFinished and deploy."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.adapter) || self.adapter.type != 'Prefix' || !has(self.training)"
                " || !has(self.training.gradientCheckpointing) || !self.training.gradientCheckpointing",
                "adapter Prefix lives in the attention cache, which gradientCheckpointing: true drops; leave it out",
            ),
            (
                "!has(self.adapter) || !(self.adapter.type in ['Prefix', 'Prompt']) || !has(self.method)"
                " || !has(self.method.sft) || !has(self.method.sft.packing) || !self.method.sft.packing",
                "virtual tokens (adapter Prefix, Prompt) stand before a row, and packing joins rows; leave method.sft.packing out",
            ),
            (
                "!has(self.adapter) || !has(self.adapter.initial) || !has(self.method)"
                " || !(has(self.method.reward) || has(self.method.classification))",
                "adapter.initial is for methods sft, cpt, dpo, kto, orpo, ppo and grpo",
            ),
            (
                "!has(self.adapter) || !has(self.adapter.newTokens) || !has(self.method) || has(self.method.sft) || has(self.method.cpt)",
                "adapter.newTokens is for methods sft and cpt: leave it out",
            ),
            (
                "!has(self.adapter) || !has(self.adapter.newTokens) || !has(self.baseModel.fromConfig)",
                "adapter.newTokens adds to a tokenizer there is, and baseModel.fromConfig trains its own; leave newTokens out",
            ),
            (
                "!has(self.evaluation) || !has(self.evaluation.metrics) || has(self.evaluation.labels)"
                " || (has(self.method) && has(self.method.classification))"
                " || !self.evaluation.metrics.exists(m, m in ['Accuracy', 'MacroF1'])",
                "metrics Accuracy and MacroF1 need labels: the list of allowed answers (evaluation.labels)",
            ),
            (
                "!has(self.evaluation) || !has(self.evaluation.gate) || has(self.evaluation.labels)"
                " || (has(self.method) && has(self.method.classification))"
                " || !self.evaluation.gate.exists(g, g.metric in ['Accuracy', 'MacroF1'])",
                "a gate on Accuracy or MacroF1 needs labels: the list of allowed answers (evaluation.labels)",
            ),
            (
                "!has(self.dataset.mix) || (has(self.method) && has(self.method.cpt))",
                "dataset.mix keeps general text among raw text, and needs method cpt; rows with answers go into dataset.train",
            ),
            (
                "!has(self.dataset.mix) || !has(self.baseModel.fromConfig)",
                "dataset.mix keeps what a base model knows, and baseModel.fromConfig knows nothing; put the texts into dataset.train",
            ),
        )
    )

    base_model: BaseModelSpec
    """The model to start from."""
    dataset: DatasetSpec
    """The rows to learn from."""
    method: MethodSpec | None = None
    """What is learned; left out, sft."""
    adapter: AdapterSpec | None = None
    """Which weights learn; left out, LoRA (cpt: Full)."""
    training: TrainingSpec | None = None
    """Hyperparameters."""
    evaluation: EvaluationSpec | None = None
    """Comparison with the base, and the gate."""
    output: OutputSpec
    """Where the artifact goes."""
    tracking: TrackingSpec | None = None
    """Experiment trackers the curves are written for."""
    deploy: DeploySpec | None = None
    """Serve it when the gate has passed."""
    backend: BackendSpec | None = None
    """Where it runs; left out, kubernetes."""
    suspend: bool = False
    """Stop with a checkpoint and free the GPU; false goes on from there."""
    cancel: bool = False
    """End the job; checkpoints are kept. Cannot be unset."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Seconds after startTime at which an unfinished job ends as DeadlineExceeded."""
    ttl_seconds_after_finished: Seconds | None = None
    """Seconds after its end at which the job object is deleted, if nothing that names it still waits for what it made; artifact and
    deployments stay."""
    max_retries: Annotated[int, Field(ge=0, le=20)] | None = None
    """New attempts after failures where a retry can help; left out, 3. Lost pods (at most 5) and interrupted ones (at most 20) do not count."""


FROZEN = (
    "baseModel",
    "dataset",
    "method",
    "adapter",
    "training",
    "evaluation",
    "output",
    "tracking",
    "backend",
    "activeDeadlineSeconds",
    "maxRetries",
)


def _frozen(field: str) -> tuple[str, str]:
    """Root-level rule: rules under spec cannot see the status. Free before startTime, refused after."""
    same = (
        f"has(self.spec.{field}) == has(oldSelf.spec.{field})"
        f" && (!has(self.spec.{field}) || self.spec.{field} == oldSelf.spec.{field})"
    )
    return (
        f"!has(oldSelf.status) || !has(oldSelf.status.startTime) || ({same})",
        f"spec.{field} is frozen since the job has started (status.startTime); delete the job and create it anew. "
        "suspend, cancel, ttlSecondsAfterFinished and deploy can still change",
    )


class FineTuneJob(ApiModel):
    """Fine-tunes a language model: checks the data, trains, evaluates, stores a checksummed artifact."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 40",
                "metadata.name must be a DNS label: at most 40 characters of a-z, 0-9 and '-', beginning with a letter",
            ),
            ("!oldSelf.spec.cancel || self.spec.cancel", "spec.cancel cannot be unset; create a new job"),
            (
                "!has(self.spec.baseModel.fromConfig) || (has(self.spec.method) && has(self.spec.method.cpt)"
                " && (!has(self.spec.adapter) || self.spec.adapter.type == 'Full'))",
                "baseModel.fromConfig starts from random weights: it needs method cpt and adapter Full",
            ),
            *(_frozen(field) for field in FROZEN),
        )
    )

    spec: FineTuneJobSpec
    """What to do."""
    status: FineTuneJobStatus | None = None
    """What happened so far."""
