"""What this pod shall serve and what it does: one task per adapter.

Told and asked by :mod:`finetune_gateway.report`; asked by :mod:`finetune_gateway.app` whether the pod is ready.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from finetune_api.pods import DesiredAdapter, DesiredPool, LoadedAdapter, PoolReport
from finetune_gateway import metrics
from finetune_gateway.routes import Routes


class Keeper(Protocol):
    """Keeps one AdapterDeployment answering."""

    report: LoadedAdapter
    tried: bool
    """Whether an attempt has ended since what is behind the gateway came up."""

    def desire(self, desired: DesiredAdapter | None) -> None:
        """Set what is wanted; None ends :meth:`run`."""

    async def run(self) -> None:
        """Bring up what is wanted until nothing is."""


K = TypeVar("K", bound=Keeper)


class Pool(Generic[K]):
    """The adapters of this pod."""

    def __init__(
        self, make: Callable[[DesiredAdapter], K], routes: Routes, up: asyncio.Event, pod: str, tasks: asyncio.TaskGroup
    ) -> None:
        self._make = make
        self._routes = routes
        self._up = up
        """Set while what is behind the gateway answers."""
        self._pod = pod
        self._tasks = tasks
        self._adapters: dict[str, K] = {}
        self._warm = False
        self.draining = False

    @property
    def adapters(self) -> list[K]:
        """Those wanted, and those on their way out."""
        return list(self._adapters.values())

    def desire(self, desired: DesiredPool) -> None:
        """Set what is wanted; adapters no longer listed are let go."""
        wanted = {adapter.deployment: adapter for adapter in desired.adapters}
        self._routes.split(wanted)  # at once: a split waits for no adapter that is being loaded
        for name, adapter in self._adapters.items():
            adapter.desire(wanted.get(name))
        for name in wanted.keys() - self._adapters.keys():
            self._adapters[name] = self._make(wanted[name])
            self._tasks.create_task(self._run(name))

    async def _run(self, name: str) -> None:
        await self._adapters[name].run()
        del self._adapters[name]

    def cool(self) -> None:
        """An adapter was lost: clients shall come again once every adapter was tried."""
        self._warm = False

    def is_ready(self) -> bool:
        """What is behind the gateway answers, and since it came up every adapter desired then was tried."""
        if not self._up.is_set():
            self._warm = False
        elif all(adapter.tried for adapter in self._adapters.values()):
            # A latch: an adapter added later must not take the others out of service while it loads.
            self._warm = True
        return self._warm and not self.draining

    def report(self) -> PoolReport:
        """What is loaded, and how it is split."""
        reports = [
            each.report.model_copy(update={"split": self._routes.shares(each.report.deployment)})
            for each in self._adapters.values()
        ]
        metrics.LOADED.set(sum(report.digest is not None for report in reports))
        metrics.READY.set(self.is_ready())
        return PoolReport(pod=self._pod, ready=self.is_ready(), adapters=reports)
