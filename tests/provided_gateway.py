"""The gateway in front of a stand-in for a provider (see provider_stage), and the official client that asks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from finetune_api.pods import DesiredAdapter, DesiredPool
from finetune_api.v1alpha1.references import SecretRef
from finetune_api.v1alpha1.runtime import OpenAIProvider, ProviderRuntime, VertexProvider
from gateway_stage import Stage, stage
from provider_stage import KEY, OpenAIService, VertexService

SECRET = SecretRef(name="provider")
HELLO: Any = [{"role": "user", "content": "Hello there"}]


def of_provider(deployment: str, provider_model: str, **more: Any) -> DesiredAdapter:
    """A wish for a provider's model."""
    digest = f"sha256:{sha256(provider_model.encode()).hexdigest()}"
    known = {"model": deployment, "provider_model": provider_model, "digest": digest}
    return DesiredAdapter.model_validate({"deployment": deployment, **known, **more})


def a_pool(provider: ProviderRuntime, secret: SecretRef | None = SECRET) -> DesiredPool:
    return DesiredPool(namespace="team", pool="default-1", provider=provider, secret_ref=secret, adapters=[])


@asynccontextmanager
async def openai_stage(folder: Path, service: OpenAIService, **settings: Any) -> AsyncIterator[Stage]:
    """A gateway in front of OpenAI's API, with the tenant's key."""
    await service.start()
    secret = folder / "secrets" / SECRET.name
    secret.mkdir(parents=True)
    (secret / "OPENAI_API_KEY").write_text(KEY + "\n")
    known = {"base_url": service.base_url, "base_model": "gpt-base"}
    pool = a_pool(ProviderRuntime(openai=OpenAIProvider(**(known | settings))))
    async with stage(folder, pool=pool) as running:
        yield running
    await service.stop()


@asynccontextmanager
async def vertex_stage(folder: Path, service: VertexService) -> AsyncIterator[Stage]:
    """A gateway in front of Vertex AI, with a service account of the tenant's."""
    await service.start()
    service.write_credentials(folder / "secrets" / SECRET.name)
    vertex = VertexProvider(project="acme", location="us-central1", base_url=service.base_url, base_model="gemini-base")
    async with stage(folder, pool=a_pool(ProviderRuntime(vertex=vertex))) as running:
        yield running
    await service.stop()


MODELS = {"openai": "ft:tuned", "vertex": "projects/acme/locations/us-central1/endpoints/123"}
SAID = {"openai": "ft:tuned to Hello there", "vertex": "123 to Hello there"}


async def ready(running: Stage, *wishes: DesiredAdapter) -> None:
    """The deployments are loaded, and clients may come."""
    running.wish(*wishes)
    names = {wish.deployment for wish in wishes}

    def loaded() -> bool:
        last = running.operator.reports[-1] if running.operator.reports else None
        return last is not None and last.ready and {a.deployment for a in last.adapters if a.state == "Loaded"} == names

    await running.until("loaded", loaded)


def client(running: Stage) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{running.url}/v1", api_key="the clients own", max_retries=0)
