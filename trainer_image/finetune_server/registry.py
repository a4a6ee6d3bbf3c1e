"""Which model names are served: the base's, and an adapter's from load to unload.

Called by :mod:`finetune_server.api`; reads folders with :mod:`finetune_server.adapters`, hands them to the model thread
through :mod:`finetune_server.engine`. Statuses and error types are vLLM's.
"""

import asyncio
import itertools
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_server.engine import Engine
from finetune_server.protocol import ApiError, unavailable

if TYPE_CHECKING:
    from finetune_server.model import LoadedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A model name that answers."""

    name: str
    key: str | None
    """The adapter's name in the model thread, never used twice; None is the base."""
    root: str
    parent: str | None = None
    stop_tokens: frozenset[int] | None = None
    """Tokens that end its answers; None: the base's."""
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True)
class AdapterLimits:
    """What an adapter must keep."""

    root: Path
    """Adapters lie below it."""
    max_rank: int
    max_adapters: int


class Registry:
    """Names and what they stand for; belongs to the event loop."""

    def __init__(self, base: Served, model: "LoadedModel", engine: Engine, limits: AdapterLimits) -> None:
        self._base = base
        self._model = model
        self._engine = engine
        self._limits = limits
        self._adapters: dict[str, Served] = {}
        self._keys = (f"adapter{number}" for number in itertools.count())
        self._loading = asyncio.Lock()

    def get(self, name: str) -> Served:
        """The model of that name. Raises ApiError 404."""
        if name == self._base.name:
            return self._base
        if name not in self._adapters:
            raise ApiError(404, f"The model `{name}` does not exist.", param="model", code="model_not_found")
        return self._adapters[name]

    def cards(self) -> list[dict[str, Any]]:
        """Bodies of GET /v1/models, the base first."""
        return [
            {
                "id": served.name,
                "object": "model",
                "created": served.created,
                "owned_by": "finetune-server",
                "root": served.root,
                "parent": served.parent,
                "max_model_len": self._model.max_model_len,
            }
            for served in (self._base, *self._adapters.values())
        ]

    async def load(self, name: str, path: str) -> None:
        """Check an adapter folder and serve it under a name. Raises ApiError that says what is wrong with it."""
        async with self._loading:
            if name in self._adapters or name == self._base.name:
                raise _invalid(f"The lora adapter '{name}' has already been loaded.")
            if len(self._adapters) >= self._limits.max_adapters:
                # No fault of the adapter's: it may be tried again when another one has gone.
                raise unavailable(f"{len(self._adapters)} adapters are loaded, as many as --max-adapters allows.")
            folder = self._folder(path)
            started = time.monotonic()
            key = next(self._keys)
            stop_tokens = await self._put_in(key, folder)
            self._adapters[name] = Served(name, key, path, self._base.name, stop_tokens)
            log.info("loaded adapter %s from %s in %.3f s", name, folder, time.monotonic() - started)

    def unload(self, name: str) -> None:
        """Take a name away; requests under way end as they began. Raises ApiError 404."""
        served = self._adapters.pop(name, None)
        if served is None or served.key is None:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.", type="NotFoundError", code=404)
        self._engine.retire(served.key)
        log.info("unloaded adapter %s", name)

    def _folder(self, path: str) -> Path:
        root = self._limits.root.resolve()
        folder = (root / path).resolve()
        for part in (folder, *folder.glob("adapter_*")):
            if not part.resolve().is_relative_to(root):
                raise _invalid(f"lora_path {path} leads out of --adapter-root {root}.")
        if not folder.is_dir():
            raise ApiError(404, f"No adapter found at {path}: there is no such folder.", type="NotFoundError", code=404)
        return folder

    async def _put_in(self, key: str, folder: Path) -> frozenset[int] | None:
        """Its own stop tokens, where it has any."""
        from finetune_server.adapters import AdapterRefused, read_adapter

        try:
            adapter = await asyncio.to_thread(read_adapter, folder, self._model.modules, self._limits.max_rank)
            await self._engine.call(lambda model: model.add_adapter(key, adapter))
            return adapter.stop_tokens
        except AdapterRefused as refused:
            raise ApiError(400, str(refused), type="BadRequestError", code=400) from refused


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, type="InvalidUserInput", code=400)
