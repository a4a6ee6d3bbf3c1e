"""AdapterDeployment: a tuned adapter (or model) that serves traffic."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.conditions import Conditions
from finetune_api.model import ApiModel, Digest, Message, NotYet, ShortText, Uri, cel, exactly_one
from finetune_api.v1alpha1.provider import ResourceName
from finetune_api.v1alpha1.references import JobRef, ModelRef, SecretRef
from finetune_api.v1alpha1.runtime import ProviderRuntime, Runtime, TransformersRuntime


class AdapterRef(ApiModel):
    """The adapter to serve."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "jobRef", "providerModel"),
            (
                "!has(self.uri) || self.uri.matches('^s3://[^/]+/.+')",
                "uri is s3://bucket/folder of an adapter artifact",
            ),
            (
                "has(self.uri) == has(self.digest)",
                "uri and digest belong together: digest is the sha256 of the folder's manifest.json",
            ),
        )
    )

    uri: Uri | None = None
    """s3://bucket/…/adapter."""
    digest: Digest | None = None
    """sha256 of the folder's manifest.json."""
    job_ref: JobRef | None = None
    """The newest Complete FineTuneJob of that name whose gate passed; waits for it, and survives its deletion."""
    provider_model: ResourceName | None = None
    """Name by which the provider of server.runtime.provider knows the tuned model: ft:…, or for Vertex AI an endpoint's resource name or
    number."""


class Server(ApiModel):
    """The model server; AdapterDeployments with the same server settings share its pods."""

    base_model: ModelRef | None = None
    """The base; needed with adapter.uri, taken from the job with adapter.jobRef."""
    runtime: Runtime = Runtime(transformers=TransformersRuntime())
    """What runs the model; left out, transformers, or the provider of a delegated job."""
    pool: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] | None = None
    """Name that keeps deployments apart which could share pods; left out, default."""
    replicas: Annotated[int, Field(ge=1, le=64)] | None = None
    """Pods; of those who share a pool, the largest wins; left out, 1."""
    secret_ref: SecretRef | None = None
    """Credentials to read base and adapter, or to call the provider; with a jobRef left out, the job's."""
    service_account_name: ShortText | None = None
    """ServiceAccount of the pods; it must carry the annotation finetune.dev/allow: "true". With a delegated job left out, the job's."""


BASE_SHARE, OWN_SHARE = "Base", "Self"
"""In a split: the base model, and the AdapterDeployment's own adapter. Others begin with a small letter."""
SplitName = Annotated[
    str, Field(min_length=1, max_length=40, pattern=rf"^({BASE_SHARE}|{OWN_SHARE}|[a-z]([-a-z0-9]*[a-z0-9])?)$")
]


class Share(ApiModel):
    """A part of the traffic."""

    adapter: SplitName
    """Who answers: Base (the base model), Self (this AdapterDeployment's adapter), or the name of another AdapterDeployment of the
    namespace, whose own adapter answers, in whichever pool that is."""
    weight: Annotated[int, Field(ge=0, le=100)]
    """Percent of the requests; all weights together are 100."""


class Traffic(ApiModel):
    """Under which name requests arrive, and who answers them."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.split) || self.split.map(share, share.weight).sum() == 100",
                "the weights of split must add up to 100",
            ),
            (
                "!has(self.split) || self.split.all(a, self.split.exists_one(b, b.adapter == a.adapter))",
                "split names each adapter once",
            ),
            (
                "!has(self.stickyHeader) || has(self.split)",
                "stickyHeader belongs to a split: without one all is answered alike",
            ),
        )
    )

    model: ShortText | None = None
    """Public model name; left out, the name of the AdapterDeployment."""
    split: Annotated[list[Share], Field(min_length=1, max_length=8)] | None = None
    """Shares of the requests for this model; left out, all are answered by this AdapterDeployment's adapter. What is not loaded gets
    nothing: its share goes to the others in proportion to their weights."""
    sticky_header: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")] | None = None
    """Request header whose value decides the share, so that the same value always gets the same answerer. Without the header the
    request's user decides, and without that a draw for each request."""


class AdapterDeploymentSpec(ApiModel):
    """One adapter under one public name."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "!has(self.adapter.uri) || (has(self.server) && has(self.server.baseModel))",
                "adapter.uri needs server.baseModel: the model it was trained on",
            ),
            (
                "!has(self.server) || !has(self.server.baseModel) || has(self.adapter.uri)",
                "with adapter.jobRef leave server.baseModel out: it is the job's; with adapter.providerModel it is in runtime.provider",
            ),
            (
                "!has(self.adapter.providerModel) || (has(self.server) && has(self.server.runtime) && has(self.server.runtime.provider))",
                "adapter.providerModel needs server.runtime.provider: who has that model",
            ),
            (
                "!has(self.adapter.uri) || !has(self.server) || !has(self.server.runtime) || !has(self.server.runtime.provider)",
                "server.runtime.provider has models of its own: set adapter.providerModel, or leave runtime.provider out to serve adapter.uri",
            ),
        )
    )

    adapter: AdapterRef
    """The adapter to serve."""
    server: Server | None = None
    """The model server."""
    mode: Literal["Adapter", "Merged"] | None = None
    """Adapter (left out) hot-loads it beside others; Merged is not supported yet."""
    traffic: Traffic | None = None
    """Public model name, and how requests for it are split."""
    rollout: NotYet | None = None
    """Stepwise rollout; not supported yet."""
    autoscaling: NotYet | None = None
    """Autoscaling; not supported yet."""


class ShareStatus(ApiModel):
    """What became of a share."""

    adapter: Annotated[str, Field(max_length=40)]
    """As in spec.traffic.split."""
    weight: Annotated[int, Field(ge=0, le=100)]
    """Percent asked for."""
    message: Annotated[str, Field(max_length=256)] | None = None
    """Why nothing is sent there; left out, it gets its share."""


class PodAdapter(ApiModel):
    """What one server pod said about this adapter."""

    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""
    state: Literal["Starting", "Loaded", "Failed"]
    """Starting: the pod has not reported yet, or it is loading the adapter."""
    digest: Annotated[str, Field(max_length=71)] | None = None
    """Digest the pod answers with now: after a failed load the earlier one."""
    message: Message | None = None
    """Why it failed."""


class ResolvedAdapter(ApiModel):
    """An adapter pinned by digest, with its base; or a provider's model."""

    uri: Uri | None = None
    """s3://bucket/…/adapter; of a delegated job, the folder of its manifest."""
    digest: Digest
    """sha256 of its manifest.json; of adapter.providerModel, of that name: a provider's weights cannot be pinned."""
    base_model: ModelRef | None = None
    """The base it was trained on; none of a provider's model."""
    provider_model: ResourceName | None = None
    """The provider's name of the tuned model."""
    provider: ProviderRuntime | None = None
    """Who has that model."""
    job_name: Annotated[str, Field(max_length=253)] | None = None
    """The jobRef it was resolved from."""
    job_uid: Annotated[str, Field(max_length=64)] | None = None
    """uid of the job that made it."""
    secret_ref: SecretRef | None = None
    """Credentials to read it, or to call the provider."""
    service_account_name: ShortText | None = None
    """A delegated job's ServiceAccount, which may call the provider."""


class AdapterDeploymentStatus(ApiModel):
    """What is served."""

    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = None
    """Generation this status is about."""
    conditions: Conditions | None = None
    """Ready, Reconciling, Stalled."""
    state: Annotated[str, Field(max_length=64)] | None = None
    """One word for the column."""
    message: Message | None = None
    """The most telling condition's sentence, for the column."""
    model: Annotated[str, Field(max_length=256)] | None = None
    """Public model name."""
    url: Uri | None = None
    """Base URL for OpenAI clients, ending in /v1."""
    pool: Annotated[str, Field(max_length=63)] | None = None
    """Name of the Deployment that serves it."""
    adapter: ResolvedAdapter | None = None
    """What the reference resolved to; kept when the job is deleted."""
    replicas: Annotated[int, Field(ge=0)] | None = None
    """Pods that exist."""
    ready_replicas: Annotated[int, Field(ge=0)] | None = None
    """Ready pods that answer with this digest."""
    pods: Annotated[list[PodAdapter], Field(max_length=64)] | None = None
    """One entry per server pod."""
    split: Annotated[list[ShareStatus], Field(max_length=8)] | None = None
    """The split that is asked for, and which of it gets nothing."""


class AdapterDeployment(ApiModel):
    """Serves a tuned adapter on its base model behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 40",
                "metadata.name must be a DNS label: at most 40 characters of a-z, 0-9 and '-', beginning with a letter",
            ),
            (
                "!has(self.spec.traffic) || !has(self.spec.traffic.split)"
                " || self.spec.traffic.split.all(share, share.adapter != self.metadata.name)",
                "traffic.split calls the AdapterDeployment's own adapter Self",
            ),
        )
    )

    spec: AdapterDeploymentSpec
    """What to serve."""
    status: AdapterDeploymentStatus | None = None
    """What is served."""
