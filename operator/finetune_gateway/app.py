"""Puts the gateway together, and takes it down without losing a request."""

import asyncio
import logging
import signal

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from finetune_gateway.errors import openai_errors
from finetune_gateway.proxy import name_share
from finetune_gateway.report import Reporter, read_wanted
from finetune_gateway.wiring import Parts, Settings, beside_a_server, to_a_provider

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 10 * 1024 * 1024
LEAVE_SECONDS = 5
"""From turning unready until clients have stopped to arrive: endpoints take that long to spread."""
DRAIN_SECONDS = 60
"""Longest wait for requests under way."""


class Gateway:
    """All parts, wired."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        self.settings = settings
        self.changed = asyncio.Event()
        wanted = read_wanted(settings.config)
        parts = Parts(settings, session, tasks, self.changed.set)
        self.pool, self.proxy, self.watch = (
            beside_a_server(parts) if wanted.provider is None else to_a_provider(parts, wanted)
        )
        self.reporter = settings.report_to and Reporter(session, settings.report_to, self.pool, settings.config)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to load what is wanted."""
        self.pool.desire(read_wanted(self.settings.config))
        if self.watch:
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
