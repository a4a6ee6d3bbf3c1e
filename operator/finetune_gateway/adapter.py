"""Keeps one AdapterDeployment's adapter loaded: one task, woken by a new wish or a restarted server.

Started by :mod:`finetune_gateway.pool`, told of losses by :mod:`finetune_gateway.watch`; fetches through artifact, loads through server, points routes.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_api.model import MAX_SENTENCE
from finetune_api.pods import DesiredAdapter, LoadedAdapter
from finetune_api.reasons import ServingReason
from finetune_gateway import metrics
from finetune_gateway.artifact import Limits, LoadFailure, check_adapter, fetch_adapter
from finetune_gateway.routes import Routes, Target
from finetune_gateway.server import AdapterRefused, ModelServer, ServerRefused, ServerUnreachable

log = logging.getLogger(__name__)

RETRY_SECONDS = (2, 5, 15, 60)
FINAL = {ServingReason.BASE_MODEL_MISMATCH, ServingReason.RANK_TOO_HIGH, ServingReason.ADAPTER_INVALID}
"""The digest pins what was found: trying again cannot change it."""
BEING_LOADED = "it is being loaded"


@dataclass(frozen=True)
class Tools:
    """What every adapter's task works with."""

    server: ModelServer
    routes: Routes
    executor: Executor
    """Storage calls block; its size bounds how many run at once."""
    adapters_dir: Path
    """Shared with the model server, at the same path."""
    secrets_dir: Path
    limits: Limits
    complete: Callable[[str], Awaitable[None]]
    """One token from a model through the gateway's own listener. Raises ServerRefused or ServerUnreachable."""
    changed: Callable[[], None]
    """There is something new to report."""


def loaded_name(desired: DesiredAdapter) -> str:
    """The server's name: a reused name could be answered from a stale prefix cache, so the digest is part of it."""
    return f"{desired.deployment}-{desired.digest.removeprefix('sha256:')[:12]}"


class Adapter:
    """What one AdapterDeployment wants and what it has."""

    def __init__(self, tools: Tools, desired: DesiredAdapter) -> None:
        self._tools = tools
        self._desired: DesiredAdapter | None = desired
        self._known_since = time.monotonic()
        self._wake = asyncio.Event()
        self._attempted = desired
        self._good: DesiredAdapter | None = None
        """What served last; comes back after a restart of the server even when the newest wish cannot be met."""
        self.serving: Target | None = None
        self.tried = False
        """Whether an attempt has ended since the server came up."""
        self.report = self._say(desired, "Loading")

    def desire(self, desired: DesiredAdapter | None) -> None:
        """Set what is wanted; None ends the task."""
        if desired != self._desired:
            self._desired = desired
            self._known_since = time.monotonic()
            self._wake.set()

    def lost(self) -> None:
        """The server went down, or came up without it."""
        if self.serving is not None:
            self._tools.routes.release(self.serving)
        self.serving, self.tried = None, False
        self._known_since = time.monotonic()
        if self._desired is not None:
            self.report = self._say(self._desired, "Loading")
        self._wake.set()

    def names(self) -> set[str]:
        """Names whose folders are needed, or soon will be."""
        return {loaded_name(each) for each in (self._desired, self._good, self._attempted) if each}

    async def run(self) -> None:
        """Bring up what is wanted until nothing is."""
        failures = 0
        while (desired := self._desired) is not None:
            self._wake.clear()
            if self.serving is None and self._good is not None and self._good.digest != desired.digest:
                await self._attempt(self._good.model_copy(update={"model": desired.model}))
            failure = await self._attempt(desired)
            retry = None if failure is None or failure.reason in FINAL else RETRY_SECONDS[failures]
            failures = min(failures + 1, len(RETRY_SECONDS) - 1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(retry):
                    await self._wake.wait()
                failures = 0
        self._tools.routes.withdraw(self.report.deployment)
        if self.serving is not None:
            self._tools.routes.release(self.serving)
        self._tools.changed()

    async def _attempt(self, desired: DesiredAdapter) -> LoadFailure | None:
        """Bring it up; a failure is reported, and what served before goes on serving."""
        self._attempted = desired
        try:
            await self._bring_up(desired)
            return None
        except LoadFailure as failure:
            found = failure
            log.warning("adapter %s: %s: %s", desired.deployment, failure.reason, failure.message)
        except Exception as error:  # one adapter's surprise must not take down the others
            found = LoadFailure(ServingReason.SERVER_ERROR, f"the gateway failed: {error!r}")
            log.exception("adapter %s", desired.deployment)
        finally:
            self.tried = True
        metrics.LOADS.labels(found.reason).inc()
        self.report = self._say(desired, "Failed", found)
        return found

    async def _bring_up(self, desired: DesiredAdapter) -> None:
        name = loaded_name(desired)
        if self.serving is None or self.serving.name != name:
            if self.report.desired_digest != desired.digest:
                self.report = self._say(desired, "Loading")
            target = await self._load(desired, name)
            earlier, self.serving, self._good = self.serving, target, desired
            if earlier is not None:
                self._tools.routes.release(earlier)
            metrics.LOADS.labels("Loaded").inc()
            metrics.LOAD_SECONDS.observe(time.monotonic() - self._known_since)
            log.info("adapter %s: serving %s", desired.deployment, desired.digest)
        self._tools.routes.publish(desired.deployment, desired.model, self.serving)
        self.report = self._say(desired, "Loaded")

    async def _load(self, desired: DesiredAdapter, name: str) -> Target:
        """Fetch, check, load, and let it answer once. Raises LoadFailure."""
        tools = self._tools
        folder = tools.adapters_dir / name
        loop = asyncio.get_running_loop()
        manifest = await loop.run_in_executor(tools.executor, fetch_adapter, desired, folder, tools.secrets_dir)
        check_adapter(folder, manifest, tools.limits)
        await tools.server.up.wait()
        target = tools.routes.hold(name)
        try:
            await self._try(name, folder)
        except BaseException:
            tools.routes.release(target)
            raise
        return target

    async def _try(self, name: str, folder: Path) -> None:
        """Load it where it is not, and let it answer. Raises LoadFailure."""
        tools = self._tools
        try:
            async with tools.server.lock:
                if name not in await tools.server.models():
                    await tools.server.load(name, folder)
            await tools.complete(name)
        except AdapterRefused as error:
            raise LoadFailure(ServingReason.ADAPTER_INVALID, f"the model server said: {error}") from error
        except (ServerRefused, ServerUnreachable) as error:
            raise LoadFailure(ServingReason.SERVER_ERROR, f"the model server said: {error}") from error

    def _say(
        self, desired: DesiredAdapter, state: Literal["Loading", "Loaded", "Failed"], failure: LoadFailure | None = None
    ) -> LoadedAdapter:
        """The new report; while nothing serves, the public name answers with it too."""
        if self.serving is None:
            self._tools.routes.publish(desired.deployment, desired.model, failure.message if failure else BEING_LOADED)
        self._tools.changed()
        return LoadedAdapter(
            deployment=desired.deployment,
            desired_digest=desired.digest,
            state=state,
            digest=self._good.digest if self._good and self.serving else None,
            reason=failure.reason if failure else None,
            message=failure.message[:MAX_SENTENCE] if failure else None,
            load_seconds=round(time.monotonic() - self._known_since, 3) if state == "Loaded" else None,
        )
