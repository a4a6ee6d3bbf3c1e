"""The gateway as it is, on loopback, beside a stand-in for the model server that answers with the name it was asked for.

Object storage is a folder; what the gateway does with the real one is a contract test. The operator is a stand-in too.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
from aiohttp import web

from finetune_api.artifacts import Manifest
from finetune_api.pods import DesiredAdapter, DesiredPool, PoolReport
from finetune_api.v1alpha1.references import ModelRef
from finetune_gateway import adapter, provider_adapter, watch
from finetune_gateway import report as reporting
from finetune_gateway.app import run
from finetune_gateway.report import ReportServer
from finetune_gateway.wiring import Settings
from ports import free_port

BASE_URI = "s3://models/base"


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


@dataclass
class ModelServer:
    """vLLM's surface: adapters by name; a completion says which model made it."""

    models: set[str] = field(default_factory=lambda: {"base"})
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    """Adapter name -> the sentence it is refused with."""
    late: set[str] = field(default_factory=set)
    """Adapters that an earlier request is still loading: the next one for them waits, and is refused."""
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    """Prompts "wait" are answered once this is set."""
    aborted: int = 0
    busy: list[str] = field(default_factory=list)
    """Models whose next completion is answered 429."""
    chunks: list[bytes] | None = None
    runner: web.AppRunner | None = None
    port: int = 0

    async def start(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self.list_models),
                web.post("/v1/load_lora_adapter", self.load),
                web.post("/v1/unload_lora_adapter", self.unload),
                web.post("/v1/completions", self.complete),
                web.post("/v1/chat/completions", self.complete),
            ]
        )
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        assert self.runner is not None
        await self.runner.cleanup()

    async def restart(self) -> None:
        """What a killed process leaves: a server without adapters."""
        await self.stop()
        self.models = {"base"}
        await self.start()

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name} for name in sorted(self.models)]})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert Path(body["lora_path"]).is_dir()  # noqa: ASYNC240
        if body["lora_name"] in self.refuse:
            return web.json_response({"error": {"message": self.refuse[body["lora_name"]]}}, status=400)
        self.models.add(body["lora_name"])
        if body["lora_name"] in self.late:
            sentence = f"The lora adapter '{body['lora_name']}' has already been loaded."
            return web.json_response({"error": {"message": sentence}}, status=400)
        return web.Response(text="ok")

    async def unload(self, request: web.Request) -> web.Response:
        self.models.remove((await request.json())["lora_name"])
        return web.Response(text="ok")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.headers.append(request.headers)
        if body["model"] in self.busy:
            self.busy.remove(body["model"])
            return web.json_response({"error": {"message": "too many requests"}}, status=429)
        if body["model"] not in self.models:
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        try:
            if body.get("prompt") == "wait":
                await self.hold.wait()
            if body.get("stream"):
                return await self._stream(request, body["model"])
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        return web.json_response({"model": body["model"], "choices": [{"text": body["model"]}]})

    async def _stream(self, request: web.Request, model: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            if number == 2:
                await self.hold.wait()
            await response.write(f"data: {json.dumps({'model': model, 'n': number})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


@dataclass
class Operator:
    """Answers reports with what a test wants."""

    desired: DesiredPool | None = None
    """None: 503, as an operator that does not know the pool yet."""
    reports: list[PoolReport] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    async def report(self, request: web.Request) -> web.Response:
        self.reports.append(PoolReport.model_validate_json(await request.read()))
        self.tokens.add(request.headers["Authorization"])
        if self.desired is None:
            return web.Response(status=503)
        return web.json_response(self.desired.wire())


@dataclass
class Stage:
    """A gateway, its model server and its operator."""

    folder: Path
    server: ModelServer
    operator: Operator
    url: str
    http: aiohttp.ClientSession

    async def post(self, path: str = "/v1/completions", **body: Any) -> tuple[int, Any]:
        async with self.http.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(self.url + path) as response:
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.text()

    async def until(self, what: str, seen: Callable[[], Any], seconds: float = 10) -> None:
        """Wait until something holds."""
        try:
            async with asyncio.timeout(seconds):
                while not (result := seen()) or (asyncio.iscoroutine(result) and not await result):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {what}; last report: {self.operator.reports[-1:]}") from None

    async def until_loaded(self, **digests: str) -> None:
        """Wait until the last report says that these deployments answer with these digests."""

        def loaded() -> bool:
            said = {a.deployment: a.digest for a in self.operator.reports[-1].adapters if a.state == "Loaded"}
            return all(said.get(name) == digest(letter) for name, letter in digests.items())

        await self.until(f"loaded {digests}", lambda: self.operator.reports and loaded())

    async def until_failed(self, name: str) -> None:
        """Wait until the last report says that a deployment could not be brought up."""
        failed = (name, "Failed")
        await self.until(
            f"{name} failed",
            lambda: (
                self.operator.reports
                and failed in [(a.deployment, a.state) for a in self.operator.reports[-1].adapters]
            ),
        )

    def adapter(self, name: str, letter: str = "a", model: str | None = None, **config: Any) -> DesiredAdapter:
        """A wish, and the adapter in storage."""
        made = self.folder / "stored" / f"{name}-{letter * 12}"
        made.mkdir(parents=True, exist_ok=True)
        manifest = {"kind": "Adapter", "files": [], "baseModel": {"uri": BASE_URI}} | config.pop("manifest", {})
        (made / "manifest.json").write_text(json.dumps(manifest))
        (made / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8} | config))
        return DesiredAdapter(deployment=name, model=model or name, uri=f"s3://models/{name}", digest=digest(letter))

    def wish(self, *adapters: DesiredAdapter) -> None:
        """What the operator wants from now on."""
        mounted = DesiredPool.model_validate_json((self.folder / "pool.json").read_bytes())
        self.operator.desired = mounted.model_copy(update={"adapters": list(adapters)})


def a_pool(*adapters: DesiredAdapter) -> DesiredPool:
    return DesiredPool(namespace="team", pool="default-1", base_model=ModelRef(uri=BASE_URI), adapters=list(adapters))


def fetch_from(folder: Path) -> Callable[[DesiredAdapter, Path, Path], Manifest]:
    """fetch_adapter with a folder as object storage."""

    def fetch(desired: DesiredAdapter, dest: Path, secrets: Path) -> Manifest:
        if not dest.exists():
            shutil.copytree(folder / "stored" / dest.name, dest)
        return Manifest.model_validate_json((dest / "manifest.json").read_bytes())

    return fetch


@asynccontextmanager
async def stage(folder: Path, *, report: bool = True, pool: DesiredPool | None = None) -> AsyncIterator[Stage]:
    """Everything running; ``pool`` is what the mounted file says from the start."""
    for name in ("models", "adapters"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "models" / "base.json").write_text(json.dumps({"uri": BASE_URI}))
    (folder / "token").write_text("secret-token\n")
    if not (folder / "pool.json").exists():
        (folder / "pool.json").write_text(json.dumps((pool or a_pool()).wire()))
    server, operator = ModelServer(), Operator()
    await server.start()
    app = web.Application()
    app.add_routes([web.post("/report", operator.report)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    operator_port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    settings = Settings(
        pod="pod-1",
        config=folder / "pool.json",
        models_dir=folder / "models",
        adapters_dir=folder / "adapters",
        secrets_dir=folder / "secrets",
        server_url=f"http://127.0.0.1:{server.port}",
        max_lora_rank=64,
        report_to=ReportServer(f"http://127.0.0.1:{operator_port}/report", folder / "token") if report else None,
        host="127.0.0.1",
        port=free_port(),
    )
    stop = asyncio.Event()
    async with aiohttp.ClientSession() as upstream, aiohttp.ClientSession() as http:
        gateway = asyncio.create_task(run(settings, upstream, stop))
        try:
            with (
                mock.patch.object(adapter, "fetch_adapter", fetch_from(folder)),
                mock.patch.object(watch, "WATCH_SECONDS", 0.2),
                mock.patch.object(adapter, "RETRY_SECONDS", (0.1, 0.1)),
                mock.patch.object(provider_adapter, "RETRY_SECONDS", (0.1, 0.1)),
                mock.patch.object(reporting, "REPORT_SECONDS", 0.2),
            ):
                yield Stage(folder, server, operator, f"http://127.0.0.1:{settings.port}", http)
        finally:
            server.hold.set()
            gateway.cancel()
            await asyncio.gather(gateway, return_exceptions=True)
            await server.stop()
            await runner.cleanup()
