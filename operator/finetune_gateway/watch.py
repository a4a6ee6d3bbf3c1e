"""A watch over the model server: notices that it went away, came up or lost adapters; unloads what nobody uses."""

import asyncio
import contextlib
import logging
import shutil
import tempfile
from pathlib import Path

from finetune_gateway.adapter import Adapter, Tools
from finetune_gateway.artifact import PARTIAL
from finetune_gateway.pool import Pool
from finetune_gateway.routes import BASE
from finetune_gateway.server import ServerRefused, ServerUnreachable

log = logging.getLogger(__name__)

WATCH_SECONDS = 2


class ServerWatch:
    """Compares the model server with what is in use, every 2 s and when told to."""

    def __init__(self, tools: Tools, pool: Pool[Adapter], look: asyncio.Event) -> None:
        self._tools = tools
        self._pool = pool
        self._look = look
        """Look now: it did not answer as it should."""

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            self._look.clear()
            # While an adapter loads nothing else may change, and what the server lists is about to.
            if not self._tools.server.lock.locked():
                await self._check()
            if not self._tools.server.up.is_set():
                self._look.clear()  # its own try has gone the clients' way, and failed like theirs: it would never rest
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._look.wait()

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
            for adapter in self._pool.adapters:
                if adapter.serving is not None and adapter.serving.name not in names:
                    log.warning("the model server lost %s", adapter.serving.name)
                    adapter.lost()
                    self._pool.cool()
            for name in names - self._tools.routes.in_use():
                await server.unload(name)
                log.info("unloaded %s", name)

    async def _tidy_disk(self) -> None:
        needed = set().union(*(adapter.names() for adapter in self._pool.adapters))
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
