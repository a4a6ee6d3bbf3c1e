"""Puts the gateway together, and takes it down without losing a request."""

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from finetune_api.pods import ADAPTER_HEADER, DesiredShare
from finetune_gateway.adapter import Adapter, Tools
from finetune_gateway.artifact import Limits
from finetune_gateway.base import read_base
from finetune_gateway.errors import openai_errors
from finetune_gateway.pool import Pool
from finetune_gateway.proxy import Proxy, name_share
from finetune_gateway.report import Reporter, ReportServer, read_wanted
from finetune_gateway.routes import BASE, OWN_SHARE, Routes, Target
from finetune_gateway.server import ModelServer
from finetune_gateway.upstream import Passthrough
from finetune_gateway.watch import ServerWatch

log = logging.getLogger(__name__)

FETCHES = 4
"""Adapters fetched at once."""
MAX_BODY_BYTES = 10 * 1024 * 1024
LEAVE_SECONDS = 5
"""From turning unready until clients have stopped to arrive: endpoints take that long to spread."""
DRAIN_SECONDS = 60
"""Longest wait for requests under way."""


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


class Gateway:
    """All parts, wired."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        self.settings = settings
        self.changed = asyncio.Event()
        look = asyncio.Event()
        base_model = read_base(settings.models_dir)
        routes = Routes(
            Passthrough(session, f"{settings.server_url}/v1", look=look.set), BASE, partial(peer, session), Random()
        )
        tools = Tools(
            server=ModelServer(session, settings.server_url),
            routes=routes,
            executor=ThreadPoolExecutor(FETCHES, "fetch"),
            adapters_dir=settings.adapters_dir,
            secrets_dir=settings.secrets_dir,
            limits=Limits(base_model, settings.max_lora_rank),
            complete=ModelServer(session, f"http://127.0.0.1:{settings.port}").complete,
            changed=self.changed.set,
        )
        self.pool = Pool(partial(Adapter, tools), routes, tools.server.up, settings.pod, tasks)
        self.watch = ServerWatch(tools, self.pool, look)
        self.proxy = Proxy(routes, base_model.uri)
        self.reporter = settings.report_to and Reporter(session, settings.report_to, self.pool, settings.config)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to load what is wanted."""
        self.pool.desire(read_wanted(self.settings.config))
        tasks.create_task(self.watch.run())
        if self.reporter:
            tasks.create_task(self.reporter.run(self.changed))

    def application(self) -> web.Application:
        """Everything this pod answers."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[openai_errors])
        app.add_routes(self.proxy.paths())
        app.add_routes(
            [web.get("/healthz", self.is_alive), web.get("/readyz", self.is_ready), web.get("/metrics", self.metrics)]
        )
        app.on_response_prepare.extend([self.send_away, name_share])
        return app

    async def send_away(self, request: web.Request, response: web.StreamResponse) -> None:
        """While draining, a client's next request belongs to another pod."""
        if self.pool.draining:
            response.force_close()

    async def is_alive(self, request: web.Request) -> web.Response:
        """This process serves."""
        return web.Response(text="ok")

    async def is_ready(self, request: web.Request) -> web.Response:
        """Clients may come."""
        return web.Response(text="ok") if self.pool.is_ready() else web.Response(status=503, text="not ready")

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus metrics."""
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def peer(session: aiohttp.ClientSession, share: DesiredShare) -> Target:
    """The model of a share that another pool of the namespace has."""
    assert share.url
    assert share.model
    who = f"AdapterDeployment {share.adapter}"
    asked = {ADAPTER_HEADER: OWN_SHARE}  # a split of its own would divide the share again, and might lead back here
    return Target(share.model, Passthrough(session, share.url, who, f"{who} does not serve it", asked))


class Leaving(Exception):
    """Ends the background tasks."""


async def serve(settings: Settings) -> None:
    """Run until SIGTERM; then turn unready, let requests under way end, leave."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        try:
            await run(settings, session, stop)
        except* Leaving:
            log.info("left")


async def run(settings: Settings, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
    """Serve until ``stop``."""
    async with asyncio.TaskGroup() as tasks:
        gateway = Gateway(settings, session, tasks)
        runner = web.AppRunner(
            gateway.application(), access_log=None, handler_cancellation=True, shutdown_timeout=DRAIN_SECONDS
        )
        await runner.setup()
        await web.TCPSite(runner, settings.host, settings.port).start()
        log.info("listening on %s:%s", settings.host, settings.port)
        gateway.start(tasks)
        await stop.wait()
        log.info("leaving: unready for %s s, then no new connections", LEAVE_SECONDS)
        gateway.pool.draining = True
        gateway.changed.set()
        await asyncio.sleep(LEAVE_SECONDS)
        await runner.cleanup()
        raise Leaving
