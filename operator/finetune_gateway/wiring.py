"""Which parts a pod has: beside a model server, or in front of a provider. Used by :mod:`finetune_gateway.app`."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp

from finetune_api.pods import ADAPTER_HEADER, DesiredPool, DesiredShare
from finetune_api.v1alpha1.adapterdeployment import OWN_SHARE
from finetune_gateway.adapter import Adapter, Tools
from finetune_gateway.artifact import Limits
from finetune_gateway.base import read_base
from finetune_gateway.openai_provider import BASE_URL, OpenAIProvider
from finetune_gateway.pool import Pool
from finetune_gateway.provider import Provider, ProviderUpstream
from finetune_gateway.provider_adapter import ProviderAdapter, ProviderTools
from finetune_gateway.proxy import Proxy
from finetune_gateway.report import ReportServer
from finetune_gateway.routes import BASE, Routes, Target
from finetune_gateway.server import ModelServer
from finetune_gateway.upstream import Passthrough
from finetune_gateway.watch import ServerWatch

FETCHES = 4
"""Adapters fetched at once."""


@dataclass(frozen=True)
class Settings:
    """Where things are; the command line fills it."""

    pod: str
    config: Path
    models_dir: Path
    adapters_dir: Path
    secrets_dir: Path
    server_url: str
    max_lora_rank: int
    report_to: ReportServer | None
    host: str
    port: int


@dataclass(frozen=True)
class Parts:
    """What there is before the wiring."""

    settings: Settings
    session: aiohttp.ClientSession
    tasks: asyncio.TaskGroup
    changed: Callable[[], None]
    """There is something new to report."""

    @property
    def own(self) -> ModelServer:
        """The gateway's own listener, for completions that go the clients' way."""
        return ModelServer(self.session, f"http://127.0.0.1:{self.settings.port}")


class Wired(NamedTuple):
    """The parts that differ."""

    pool: Pool[Any]
    proxy: Proxy
    watch: ServerWatch | None


def beside_a_server(parts: Parts) -> Wired:
    """Adapters are fetched and loaded into the model server of the pod."""
    settings, session, look = parts.settings, parts.session, asyncio.Event()
    base_model = read_base(settings.models_dir)
    upstream = Passthrough(session, f"{settings.server_url}/v1", look=look.set)
    routes = Routes(upstream, BASE, partial(peer, session), Random())
    tools = Tools(
        server=ModelServer(session, settings.server_url),
        routes=routes,
        executor=ThreadPoolExecutor(FETCHES, "fetch"),
        adapters_dir=settings.adapters_dir,
        secrets_dir=settings.secrets_dir,
        limits=Limits(base_model, settings.max_lora_rank),
        complete=parts.own.complete,
        changed=parts.changed,
    )
    pool = Pool(partial(Adapter, tools), routes, tools.server.up, settings.pod, parts.tasks)
    return Wired(pool, Proxy(routes, base_model.uri), ServerWatch(tools, pool, look))


def to_a_provider(parts: Parts, wanted: DesiredPool) -> Wired:
    """Requests go to the provider's endpoint; there is nothing to load."""
    provider, base = provider_of(parts, wanted)
    pool: Pool[ProviderAdapter]

    def doubt(model: str) -> None:
        for adapter in pool.adapters:
            if adapter.provider_model == model:
                adapter.doubt()

    routes = Routes(ProviderUpstream(provider, doubt), base, partial(peer, parts.session), Random())
    tools = ProviderTools(routes, parts.own.chat, parts.changed)
    up = asyncio.Event()
    up.set()  # a provider's health is each deployment's own affair
    pool = Pool(partial(ProviderAdapter, tools), routes, up, parts.settings.pod, parts.tasks)
    return Wired(pool, Proxy(routes, base or ""), None)


def provider_of(parts: Parts, wanted: DesiredPool) -> tuple[Provider, str | None]:
    """The provider, and its name of the base model."""
    assert wanted.provider
    secret: Path | None = parts.settings.secrets_dir / wanted.secret_ref.name if wanted.secret_ref else None
    if wanted.provider.vertex is not None:
        from finetune_gateway.vertex import Vertex  # Google's libraries: only where they are needed

        return Vertex(parts.session, wanted.provider.vertex, secret), wanted.provider.vertex.base_model
    openai = wanted.provider.openai
    assert openai
    is_chat_only = openai.completions == "Chat"
    return OpenAIProvider(parts.session, openai.base_url or BASE_URL, secret, is_chat_only), openai.base_model


def peer(session: aiohttp.ClientSession, share: DesiredShare) -> Target:
    """The model of a share that another pool of the namespace has."""
    assert share.url
    assert share.model
    who = f"AdapterDeployment {share.adapter}"
    asked = {ADAPTER_HEADER: OWN_SHARE}  # a split of its own would divide the share again, and might lead back here
    return Target(share.model, Passthrough(session, share.url, who, f"{who} does not serve it", asked))
