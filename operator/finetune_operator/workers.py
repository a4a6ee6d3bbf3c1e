"""The key queue: one worker per key at a time, errors retried with a backoff of the key's own, delayed looks.

``watch`` and ``report_server`` wake keys; a worker lets :mod:`finetune_operator.act` decide and act.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from finetune_operator import metrics
from finetune_operator.plan import Key

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0

logger = logging.getLogger(__name__)

Sync = Callable[[Key], Awaitable[float | None]]
"""Works on a key; returns the seconds after which to look again, None: when something happens."""
Failed = Callable[[Key, Exception, int], Awaitable[None]]
"""Is told of each failure and how many there were in a row."""


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, with jitter so that keys do not come back together."""
    longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures - 1, 16))
    return longest * random.uniform(0.5, 1.0)


class Workers:
    """Keys and when they are due. A key woken while it is worked on is worked on again afterwards."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Key] = asyncio.Queue()
        self._dirty: set[Key] = set()
        self._active: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}

    def wake(self, key: Key, after: float = 0.0) -> None:
        """Look at a key now, or in ``after`` seconds; of several planned looks the earliest stays."""
        if after > 0:
            self._set_timer(key, after)
        elif key not in self._dirty:
            self._dirty.add(key)
            if key not in self._active:
                self._queue.put_nowait(key)
                metrics.queue_depth.set(self._queue.qsize())

    async def run(self, sync: Sync, failed: Failed, concurrency: int) -> None:
        """Work on so many keys at a time, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._worker(sync, failed))

    def _set_timer(self, key: Key, after: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + after:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(after, self._ring, key)

    def _ring(self, key: Key) -> None:
        del self._timers[key]
        self.wake(key)

    async def _worker(self, sync: Sync, failed: Failed) -> None:
        while True:
            key = await self._queue.get()
            metrics.queue_depth.set(self._queue.qsize())
            self._dirty.discard(key)
            self._active.add(key)
            try:
                await self._work(key, sync, failed)
            finally:
                self._active.discard(key)
                if key in self._dirty:
                    self._queue.put_nowait(key)

    async def _work(self, key: Key, sync: Sync, failed: Failed) -> None:
        try:
            with metrics.reconcile_seconds.labels(key.kind).time():
                after = await sync(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay = backoff(failures)
            logger.warning("%s %s/%s failed (%d in a row), again in %.1f s", *key, failures, delay, exc_info=error)
            metrics.reconciles.labels(key.kind, "error").inc()
            self._set_timer(key, delay)
            try:
                await failed(key, error, failures)
            except Exception:  # the retry is set already: an unwritten status must not end this worker
                logger.exception("%s %s/%s: the failure could not be written into its status", *key)
            return
        self._failures.pop(key, None)
        metrics.reconciles.labels(key.kind, "ok").inc()
        if after is not None:
            self._set_timer(key, after)
