"""What this pod shall serve and what it does: one task per adapter, and a watch over the model server.

Told and asked by :mod:`finetune_gateway.report`; asked by :mod:`finetune_gateway.proxy` whether the pod is ready.
"""

import asyncio
import contextlib
import logging
import shutil
import tempfile
from pathlib import Path

from finetune_api.pods import DesiredPool, PoolReport
from finetune_gateway import metrics
from finetune_gateway.adapter import Adapter, Tools
from finetune_gateway.artifact import PARTIAL
from finetune_gateway.routes import BASE
from finetune_gateway.server import ServerRefused, ServerUnreachable

log = logging.getLogger(__name__)

WATCH_SECONDS = 2


class Pool:
    """The adapters of this pod."""

    def __init__(self, tools: Tools, pod: str, tasks: asyncio.TaskGroup) -> None:
        self._tools = tools
        self._pod = pod
        self._tasks = tasks
        self._adapters: dict[str, Adapter] = {}
        self._look = asyncio.Event()
        self._warm = False
        self.draining = False

    def desire(self, desired: DesiredPool) -> None:
        """Set what is wanted; adapters no longer listed are unloaded."""
        wanted = {adapter.deployment: adapter for adapter in desired.adapters}
        for name, adapter in self._adapters.items():
            adapter.desire(wanted.get(name))
        for name in wanted.keys() - self._adapters.keys():
            self._adapters[name] = Adapter(self._tools, wanted[name])
            self._tasks.create_task(self._run(name))

    async def _run(self, name: str) -> None:
        await self._adapters[name].run()
        del self._adapters[name]

    def is_ready(self) -> bool:
        """The base answers, and since it came up every adapter desired then was tried."""
        if not self._tools.server.up.is_set():
            self._warm = False
        elif all(adapter.tried for adapter in self._adapters.values()):
            # A latch: an adapter added later must not take the others out of service while it loads.
            self._warm = True
        return self._warm and not self.draining

    def report(self) -> PoolReport:
        """What is loaded."""
        reports = [adapter.report for adapter in self._adapters.values()]
        metrics.LOADED.set(sum(report.digest is not None for report in reports))
        metrics.READY.set(self.is_ready())
        return PoolReport(pod=self._pod, ready=self.is_ready(), adapters=reports)

    def look(self) -> None:
        """Look at the server now: it did not answer as it should."""
        self._look.set()

    async def watch(self) -> None:
        """Notice a server that went away, came up, or lost adapters; unload what nobody uses."""
        while True:
            self._look.clear()
            # While an adapter loads nothing else may change, and what the server lists is about to.
            if not self._tools.server.lock.locked():
                await self._check()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), WATCH_SECONDS)

    async def _check(self) -> None:
        up = self._tools.server.up
        try:
            if not up.is_set():
                await self._tools.complete(BASE)
            await self._tidy_server()
        except (ServerUnreachable, ServerRefused) as error:
            if up.is_set():
                log.warning("the model server is down: %s", error)
                up.clear()
                self._tools.changed()
            return
        if not up.is_set():
            log.info("the model server answers")
            up.set()
            self._tools.changed()
        await self._tidy_disk()

    async def _tidy_server(self) -> None:
        """Bring together what the server has and what is in use."""
        server = self._tools.server
        async with server.lock:
            names = await server.models()
            for adapter in self._adapters.values():
                if adapter.serving is not None and adapter.serving.name not in names:
                    log.warning("the model server lost %s", adapter.serving.name)
                    adapter.lost()
                    self._warm = False
            for name in names - self._tools.routes.in_use():
                await server.unload(name)
                log.info("unloaded %s", name)

    async def _tidy_disk(self) -> None:
        needed = set().union(*(adapter.names() for adapter in self._adapters.values()))
        if trash := take_away(self._tools.adapters_dir, self._tools.routes.in_use() | needed):
            await asyncio.to_thread(shutil.rmtree, trash)


def take_away(root: Path, keep: set[str]) -> Path | None:
    """Adapters that are not in use, moved to a folder to delete; at once, so that nobody starts to use one meanwhile."""
    unused = [folder for folder in root.iterdir() if folder.name.removeprefix(PARTIAL) not in keep]
    if not unused:
        return None
    trash = Path(tempfile.mkdtemp(prefix="trash.", dir=root))
    for folder in unused:
        folder.rename(trash / folder.name)
    return trash
