"""Keeps one AdapterDeployment of a provider answering: tries it, reports it, and tries again what failed.

Started by :mod:`finetune_gateway.pool`; told by :mod:`finetune_gateway.provider` when a client was failed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from finetune_api.model import MAX_SENTENCE
from finetune_api.pods import DesiredAdapter, LoadedAdapter
from finetune_api.reasons import ServingReason
from finetune_gateway import metrics
from finetune_gateway.adapter import RETRY_SECONDS, loaded_name
from finetune_gateway.provider import SECRET_NOT_FOUND
from finetune_gateway.routes import Routes, Target
from finetune_gateway.server import ServerRefused, ServerUnreachable

log = logging.getLogger(__name__)

DOUBT_SECONDS = 30
"""After a try that went well, a client's failure leads to another one no sooner: tries are billed."""
NOT_TRIED = "it has not answered yet"
REASONS = {401: ServingReason.ACCESS_DENIED, 403: ServingReason.ACCESS_DENIED}


@dataclass(frozen=True)
class ProviderTools:
    """What every task of a provider's pool works with."""

    routes: Routes
    chat: Callable[[str], Awaitable[None]]
    """One token from a model through the gateway's own listener. Raises ServerRefused or ServerUnreachable."""
    changed: Callable[[], None]
    """There is something new to report."""


class ProviderAdapter:
    """What one AdapterDeployment wants of the provider, and whether it gets it."""

    def __init__(self, tools: ProviderTools, desired: DesiredAdapter) -> None:
        self._tools = tools
        self._desired: DesiredAdapter | None = desired
        self._wake = asyncio.Event()
        self._known_since = time.monotonic()
        self._tried_at = 0.0
        self._is_trying = False
        self._target: Target | None = None
        """What the public name leads to."""
        self._digest: str | None = None
        """Digest of that."""
        self.tried = False
        self.report = self._say(desired, "Loading")

    @property
    def provider_model(self) -> str | None:
        """The provider's name of the model that answers now."""
        return self._target.name if self._target else None

    def desire(self, desired: DesiredAdapter | None) -> None:
        """Set what is wanted; None ends the task."""
        if desired != self._desired:
            self._desired = desired
            self._known_since = time.monotonic()
            self._wake.set()

    def doubt(self) -> None:
        """A client was failed: try again, unless a try is under way (and was failed itself) or due anyway."""
        is_due = time.monotonic() - self._tried_at > DOUBT_SECONDS
        if is_due and not self._is_trying and self.report.state == "Loaded":
            self._wake.set()

    async def run(self) -> None:
        """Try what is wanted until nothing is."""
        failures = 0
        while (desired := self._desired) is not None:
            self._wake.clear()
            is_good = await self._attempt(desired)
            retry = None if is_good else RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
            failures = 0 if is_good else failures + 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(retry):
                    await self._wake.wait()
                failures = 0
        self._tools.routes.withdraw(self.report.deployment)
        if self._target is not None:
            self._tools.routes.release(self._target)
        self._tools.changed()

    async def _attempt(self, desired: DesiredAdapter) -> bool:
        """One token. A model that answered before goes on until another one does; without one clients are led to the
        provider whatever comes of it, and get its own words."""
        target = self._tools.routes.hold(loaded_name(desired), desired.provider_model)
        if self.report.desired_digest != desired.digest:
            self.report = self._say(desired, "Loading")
        if self._target is None or self._target.trouble is not None:
            target.trouble = target.trouble or NOT_TRIED
            self._take(target, desired)
        else:
            self._tools.routes.publish(desired.deployment, desired.model, self._target)
        self._is_trying = True
        reason, message = await self._try(loaded_name(desired))
        self._is_trying = False
        self.tried, self._tried_at = True, time.monotonic()
        metrics.LOADS.labels(reason or "Loaded").inc()
        if message is None or target is self._target:
            target.trouble = message
        if message is not None:
            self._tools.routes.release(target)
            self.report = self._say(desired, "Failed", reason, message)
            log.warning("deployment %s: %s: %s", desired.deployment, reason, message)
            return False
        self._take(target, desired)
        self._tools.routes.release(target)
        metrics.LOAD_SECONDS.observe(time.monotonic() - self._known_since)
        self.report = self._say(desired, "Loaded")
        log.info("deployment %s: %s answers", desired.deployment, desired.provider_model)
        return True

    def _take(self, target: Target, desired: DesiredAdapter) -> None:
        """Let the public name lead there."""
        if target is not self._target:
            target.holders += 1
            if self._target is not None:
                self._tools.routes.release(self._target)
            self._target, self._digest = target, desired.digest
        self._tools.routes.publish(desired.deployment, desired.model, target)

    async def _try(self, name: str) -> tuple[ServingReason | None, str | None]:
        """Why it does not answer; None and None: it does."""
        try:
            await self._tools.chat(name)
        except ServerRefused as refused:
            if refused.code == SECRET_NOT_FOUND:
                return ServingReason.SECRET_NOT_FOUND, str(refused)
            return REASONS.get(refused.status, ServingReason.PROVIDER_ERROR), str(refused)
        except ServerUnreachable as error:
            return ServingReason.PROVIDER_ERROR, str(error)
        return None, None

    def _say(
        self,
        desired: DesiredAdapter,
        state: Literal["Loading", "Loaded", "Failed"],
        reason: ServingReason | None = None,
        message: str | None = None,
    ) -> LoadedAdapter:
        self._tools.changed()
        return LoadedAdapter(
            deployment=desired.deployment,
            desired_digest=desired.digest,
            state=state,
            digest=self._digest if self._target is not None and self._target.trouble is None else None,
            reason=reason,
            message=message and message[:MAX_SENTENCE],
            load_seconds=round(time.monotonic() - self._known_since, 3) if state == "Loaded" else None,
        )
