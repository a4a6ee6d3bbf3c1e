"""Training at a provider: the backends vertex and openai, and what a job says of the provider's side."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, Message, ShortText, Uri, cel
from finetune_api.v1alpha1.references import PodOptions, Resources, SecretRef

ProviderKind = Literal["Vertex", "OpenAI"]
ResourceName = Annotated[str, Field(min_length=1, max_length=512)]
ProviderUrl = Annotated[str, Field(min_length=8, max_length=512, pattern=r"^https?://[^/?#@ ]+(/[^?# ]*)?$")]
Multiplier = Annotated[float, Field(gt=0, le=1000)]


class VertexBackend(ApiModel):
    """Tune at Vertex AI. training.epochs, training.batchSize, training.learningRate, adapter.rank (adapter size) and
    method.dpo.beta are sent as they are stated; what is left out the provider decides."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.stagingUri.matches('^gs://[a-z0-9][a-z0-9._-]+(/.*)?$')",
                "stagingUri is gs://bucket or gs://bucket/folder: Vertex reads the rows from there",
            ),
            (
                "!has(self.outputUri) || self.outputUri.matches('^gs://[a-z0-9][a-z0-9._-]+(/.*)?$')",
                "outputUri is gs://bucket or gs://bucket/folder",
            ),
            (
                "!has(self.customBaseModelUri) || self.customBaseModelUri.startsWith('gs://')",
                "customBaseModelUri is gs://bucket/folder of safetensors weights",
            ),
        )
    )

    project: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9:.-]+$")]
    """Google Cloud project."""
    location: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9-]+$")]
    """Region of the tuning job, for example europe-west4."""
    staging_uri: Uri
    """gs://bucket/folder that takes the converted rows, in the region of the job."""
    secret_ref: SecretRef | None = None
    """Secret with the key credentials.json; left out, the pod's own identity counts (workload identity)."""
    service_account_name: ShortText | None = None
    """ServiceAccount of the pods; it must carry the annotation finetune.dev/allow: "true"."""
    learning_rate_multiplier: Multiplier | None = None
    """Factor on the recommended learning rate; for Google's own models, in place of training.learningRate."""
    export_last_checkpoint_only: bool | None = None
    """Keep only the last checkpoint; left out, each epoch's is kept and can be served."""
    display_name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Display name of the tuned model; left out, the name of the job."""
    description: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Description of the tuning job."""
    labels: (
        Annotated[
            dict[str, Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9_-]*$")]],
            Field(max_length=32),
        ]
        | None
    ) = None
    """Labels of the tuning job, the model and the endpoint; those that begin with finetune- are the operator's."""
    encryption_key: Annotated[str, Field(max_length=512, pattern=r"^projects/.+/cryptoKeys/[^/]+$")] | None = None
    """Cloud KMS key for everything the job makes: projects/…/locations/…/keyRings/…/cryptoKeys/…."""
    pre_tuned_checkpoint_id: ShortText | None = None
    """Checkpoint to go on from, where baseModel.uri is a tuned model (vertex://projects/…/models/…)."""
    custom_base_model_uri: Uri | None = None
    """Open models only: gs://bucket/folder of own weights of that base."""
    output_uri: Uri | None = None
    """Open models only: gs://bucket/folder that takes the tuned weights."""
    base_url: ProviderUrl | None = None
    """Address of the Vertex API, for example of a private endpoint; left out, the location's."""
    storage_url: ProviderUrl | None = None
    """Address of the Cloud Storage API; left out, https://storage.googleapis.com."""
    pod: PodOptions | None = None
    """Where the pods run."""
    resources: Resources | None = None
    """What the delegate's container asks for; it only waits and asks."""


class WandbRun(ApiModel):
    """A run at Weights & Biases, which the service writes with the key that is stored at the service."""

    project: Annotated[str, Field(min_length=1, max_length=128)]
    """Project of the run."""
    entity: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Team or user; left out, that of the key."""
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Display name; left out, the provider's name of the tuning job."""
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=16)] | None = None
    """Tags of the run."""


class OpenAIBackend(ApiModel):
    """Tune at a service with OpenAI's fine-tuning API. training.epochs, training.batchSize, training.seed and
    method.dpo.beta are sent as they are stated; what is left out the provider decides."""

    base_url: ProviderUrl | None = None
    """Base URL, usually ending in /v1; left out, https://api.openai.com/v1 (which ends new jobs on 2027-01-06)."""
    secret_ref: SecretRef
    """Secret with the key OPENAI_API_KEY, and if wanted OPENAI_ORG_ID, OPENAI_PROJECT_ID and CA_BUNDLE."""
    service_account_name: ShortText | None = None
    """ServiceAccount of the pods; it must carry the annotation finetune.dev/allow: "true"."""
    learning_rate_multiplier: Multiplier | None = None
    """Factor on the provider's learning rate."""
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Part of the tuned model's name; left out, the name of the job."""
    metadata: (
        Annotated[
            dict[str, Annotated[str, Field(max_length=512)]],
            Field(max_length=12),
        ]
        | None
    ) = None
    """Metadata of the provider's job; keys that begin with finetune- are the operator's."""
    wandb: WandbRun | None = None
    """Lets the service report to Weights & Biases, too (its integrations)."""
    pod: PodOptions | None = None
    """Where the pods run."""
    resources: Resources | None = None
    """What the delegate's container asks for; it only waits and asks."""


class ProviderModel(ApiModel):
    """A tuned model that lives at a provider: what an artifact of kind Endpoint is about."""

    kind: ProviderKind
    """Who has it."""
    model: ResourceName
    """The provider's name of the tuned model: ft:…, or projects/…/locations/…/models/…."""
    endpoint: ResourceName | None = None
    """Vertex: the endpoint that answers, projects/…/locations/…/endpoints/…."""
    base_model: ResourceName
    """The provider's name of the base."""
    base_url: Uri | None = None
    """Address of the provider's API, where it is not the usual one."""
    project: Annotated[str, Field(max_length=64)] | None = None
    """Vertex: Google Cloud project."""
    location: Annotated[str, Field(max_length=32)] | None = None
    """Vertex: region."""
    job: ResourceName
    """The provider's name of the tuning job that made it."""


class ProviderStatus(ApiModel):
    """The provider's side of a delegated job."""

    job: ResourceName | None = None
    """The provider's name of the tuning job: ftjob-…, or projects/…/locations/…/tuningJobs/…."""
    state: Annotated[str, Field(max_length=64)] | None = None
    """Queued, WaitingForQuota, Running, Paused …; Unknown for one this version does not know."""
    message: Message | None = None
    """What the provider said last."""
    billed_tokens: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = None
    """Tokens the provider bills for."""
