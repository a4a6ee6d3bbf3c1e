"""Between operator and pods: paths, environment and JSON. Any image that keeps this may replace the trainer.

In: ``job.json`` from an immutable ConfigMap, secret files, the stage and ``--attempt`` as arguments. Progress: POSTs to the
report server (:data:`REPORT_PATH`), in the Kubeflow trainerStatus shape. Out: a :class:`Summary` as termination message.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.model import ApiModel, Digest, Message, Uri
from finetune_api.v1alpha1.adapterdeployment import ShareStatus
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import (
    ArtifactStatus,
    Checkpoint,
    Choice,
    DatasetStatus,
    EvaluationStatus,
    JobError,
    MemoryMeasured,
    PlanStatus,
    ResolvedBaseModel,
    TrainerStatus,
    ValidationStatus,
)
from finetune_api.v1alpha1.provider import ProviderStatus
from finetune_api.v1alpha1.references import ModelRef, SecretRef
from finetune_api.v1alpha1.runtime import ProviderRuntime

CONFIG_FILE = "/etc/finetune/job.json"
SECRETS_DIR = "/var/run/finetune/secrets"
"""One folder per Secret: SECRETS_DIR/<secret name>/<key>."""
SOURCES_DIR = "/var/run/finetune/sources"
"""ConfigMap and volume sources: SOURCES_DIR/<train|validation|test>/<key or path>."""
WORK_DIR = "/work"
"""Writable scratch space (emptyDir)."""
TERMINATION_LOG = "/dev/termination-log"
NODE_ENV = "JOB_COMPLETION_INDEX"
"""Set by Kubernetes in the pods of an Indexed Job: which of several nodes this is, from 0."""
RENDEZVOUS_PORT = 29500
"""Of the first pod of several, on which the others find it."""
MAX_SUMMARY_BYTES = 3072
SECRET_WAIT_SECONDS = 45
"""How long a program waits for the keys of an optional Secret volume before it exits SecretNotFound."""

POOL_FILE = "/etc/finetune/pool.json"
"""DesiredPool of a server pod."""
MODELS_DIR = "/models"
"""Volume of the base model: MODELS_DIR/base/…, fetched by the init container."""
ADAPTERS_DIR = "/adapters"
"""Volume of the adapters, at the same path for gateway (writes) and model server (reads)."""
BASE_MODEL_NAME = "base"
"""Public name of a pool's base model."""
SERVER_PORT = 8081
"""Model server, on loopback only."""
GATEWAY_PORT = 8080
"""Gateway: traffic, probes, metrics."""
MAX_POOL_ADAPTERS = 256
"""AdapterDeployments of one pool."""
MAX_SHARE_MESSAGE = 256
ADAPTER_HEADER = "X-Finetune-Adapter"
"""In an answer: which share of a split gave it. In a request: Self, to be answered by the deployment's own adapter."""
POD_NAME_ENV = "POD_NAME"

REPORT_AUDIENCE = "finetune.dev/report"
TOKEN_FILE = "/var/run/finetune/token/token"
REPORT_CA_FILE = "/var/run/finetune/report-ca/ca.crt"
REPORT_URL_ENV = "KUBEFLOW_TRAINER_SERVER_URL"
REPORT_TOKEN_ENV = "KUBEFLOW_TRAINER_SERVER_TOKEN"
REPORT_CA_ENV = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
REPORT_PATH = "/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs/{name}/status"
POOL_REPORT_PATH = "/apis/finetune.dev/v1alpha1/namespaces/{namespace}/pools/{name}/report"
MAX_REPORT_BYTES = 65_536
MAX_POOL_REPORT_BYTES = 1_048_576
"""256 adapters with a message each."""

Stage = Literal["Prepare", "Train", "Collect", "Cancel"]
"""Cancel: only of delegated jobs; the end of what the train stage started at the provider."""


class JobConfig(ApiModel):
    """job.json: the spec as written, and what the operator resolved; immutable for the life of the job."""

    namespace: str
    name: str
    uid: str
    spec: FineTuneJobSpec
    """As written, but for adapters of earlier jobs: those are by address."""
    base_model: ResolvedBaseModel
    """The address behind uri or jobRef; empty for fromConfig."""
    reward_model: ResolvedBaseModel | None = None
    """The address behind the method's rewardModel."""
    image: str
    """Trainer image."""
    delegate_image: str | None = None
    """A delegated job: image of the train stage."""
    dry_run: bool = False
    """A delegated job: show the request and send nothing."""


class Report(ApiModel):
    """Body of a progress POST. Unknown members are ignored, as a stock KubeflowCallback sends only trainerStatus."""

    trainer_status: TrainerStatus
    checkpoints: Annotated[list[Checkpoint], Field(max_length=16)] | None = None
    """Newest committed checkpoints, oldest first."""
    resumed_from_step: Annotated[int, Field(ge=0)] | None = None
    """Step this attempt went on from."""
    provider: ProviderStatus | None = None
    """A delegated job: the provider's side of it."""


class Prepared(ApiModel):
    """Outcome of the prepare stage."""

    dataset: DatasetStatus
    plan: PlanStatus


class Trained(ApiModel):
    """Outcome of the train (or collect) stage. Published; the gate's verdict is inside."""

    artifact: ArtifactStatus
    evaluation: EvaluationStatus | None = None
    gate_passed: bool
    """True also where the spec has no gate."""
    trained_tokens: Annotated[int, Field(ge=0)]
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


class Shown(ApiModel):
    """Outcome of a dry run: nothing was sent."""

    message: str
    """The request as the provider's client would send it."""


class Summary(ApiModel):
    """The termination message, at most MAX_SUMMARY_BYTES of JSON. Exit code 0 if and only if ``error`` is None."""

    stage: Stage
    error: JobError | None = None
    """code is one of reasons.EXIT_CODES; the exit code is that reason's."""
    prepared: Prepared | None = None
    trained: Trained | None = None
    shown: Shown | None = None
    """A delegated job's dry run, in place of ``trained``."""


class DesiredShare(ApiModel):
    """A part of a public name's traffic."""

    adapter: str
    """Base, Self, or the name of an AdapterDeployment."""
    weight: int
    url: Uri | None = None
    """Base URL, ending in /v1, of the gateways of another pool that has it; None: it is of this pool."""
    model: str | None = None
    """Its public name there."""
    message: Annotated[str, Field(max_length=MAX_SHARE_MESSAGE)] | None = None
    """Why nothing can be sent there, where the operator knows."""


class DesiredAdapter(ApiModel):
    """An adapter a pool shall serve."""

    deployment: str
    """Name of its AdapterDeployment."""
    model: str
    """Public model name; unique within the pool."""
    uri: Uri | None = None
    """Where it is stored; None: a provider has it."""
    digest: Digest
    secret_ref: SecretRef | None = None
    provider_model: str | None = None
    """The provider's name of it."""
    split: Annotated[list[DesiredShare], Field(max_length=8)] | None = None
    """Who answers requests for ``model``; None: this adapter."""
    sticky_header: str | None = None
    """Header that decides the share."""


class DesiredPool(ApiModel):
    """The reply to a pool report, and pool.json of the pool's ConfigMap (for cold starts)."""

    namespace: str
    pool: str
    """Name of the Deployment."""
    base_model: ModelRef | None = None
    """None: the models are a provider's."""
    provider: ProviderRuntime | None = None
    secret_ref: SecretRef | None = None
    """Credentials for the provider."""
    adapters: Annotated[list[DesiredAdapter], Field(max_length=MAX_POOL_ADAPTERS)]


class LoadedAdapter(ApiModel):
    """What a gateway has of one AdapterDeployment."""

    deployment: str
    desired_digest: Digest
    """Digest this report is about."""
    state: Literal["Loading", "Loaded", "Failed"]
    digest: Digest | None = None
    """Digest the public name answers with now; after a failed load the earlier one."""
    reason: str | None = None
    """Failed: one of the reasons of ServingReason that a gateway finds."""
    message: Message | None = None
    """Failed: a sentence that names both values."""
    load_seconds: float | None = None
    """From knowing of it to its first answer."""
    split: Annotated[list[ShareStatus], Field(max_length=8)] | None = None
    """How requests for its public name are split now, and which share gets nothing."""


class PoolReport(ApiModel):
    """What a gateway tells every 2 s and on change."""

    pod: str
    ready: bool
    """The base answers and every desired adapter was tried."""
    adapters: Annotated[list[LoadedAdapter], Field(max_length=2 * MAX_POOL_ADAPTERS)]
    """Adapters on their way out are among them."""
