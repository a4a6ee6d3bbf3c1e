"""What runs a served model: a model server in the pod, or a provider."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import ApiModel, NotYet, ShortText, cel, exactly_one
from finetune_api.v1alpha1.provider import ProviderUrl, ResourceName
from finetune_api.v1alpha1.references import PodOptions, Resources


class TransformersRuntime(ApiModel):
    """The bundled transformers + PEFT server; runs on CPU."""

    image: ShortText | None = None
    """Image of the server; left out, the operator's trainer image."""
    resources: Resources | None = None
    """What the server asks for; left out, a quarter of a core without limit, and 1Gi of at most 4Gi."""
    max_lora_rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Highest adapter rank accepted; left out, 64."""
    pod: PodOptions | None = None
    """Where the server's pods run."""


class OpenAIProvider(ApiModel):
    """A service with OpenAI's API. server.secretRef holds OPENAI_API_KEY, and if wanted OPENAI_ORG_ID, OPENAI_PROJECT_ID and CA_BUNDLE;
    without one no key is sent."""

    base_url: ProviderUrl | None = None
    """Base URL, usually ending in /v1; left out, https://api.openai.com/v1."""
    base_model: ResourceName | None = None
    """The service's name of the model that answers as base; left out, there is no base."""
    completions: Literal["Forward", "Chat"] | None = None
    """What becomes of requests to /v1/completions: Forward (left out) passes them on; Chat asks the model as a chat, for models that
    only chat, as OpenAI's tuned ones do."""


class VertexProvider(ApiModel):
    """Vertex AI. server.secretRef holds credentials.json; without one the pod's own identity counts (workload identity)."""

    project: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9:.-]+$")]
    """Google Cloud project."""
    location: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9-]+$")]
    """Region of the endpoint, for example us-central1; or global, us, eu."""
    base_url: ProviderUrl | None = None
    """Address of the API, for example of a private endpoint; left out, the location's."""
    base_model: ResourceName | None = None
    """Name of the model that answers as base, for example gemini-2.5-flash; left out, there is no base."""


class ProviderRuntime(ApiModel):
    """A provider's endpoint: the pods hold the gateway alone. Exactly one of openai and vertex."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("openai", "vertex")))

    openai: OpenAIProvider | None = None
    """A service with OpenAI's API, at any address."""
    vertex: VertexProvider | None = None
    """Vertex AI."""
    pod: PodOptions | None = None
    """Where the gateway's pods run."""


class Runtime(ApiModel):
    """What runs the model; exactly one member."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("transformers", "vllm", "provider")))

    transformers: TransformersRuntime | None = None
    """transformers + PEFT on CPU."""
    vllm: NotYet | None = None
    """vLLM on GPU; not supported yet."""
    provider: ProviderRuntime | None = None
    """A provider's endpoint, for adapter.providerModel."""
