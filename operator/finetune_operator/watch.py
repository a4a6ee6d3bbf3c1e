"""kopf's events -> cache and keys. kopf watches, relists and authenticates; it never writes and keeps no state.

No on.create, on.update, on.delete, timers or daemons: they lose work when a PATCH fails, and nothing brings it back.
What keeps the cache honest beside the watches is :meth:`Watch.compare`: after a gap, kopf relists but cannot say what is gone.
"""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import kopf

from finetune_operator import metrics
from finetune_operator.cache import CHILD_SELECTOR, POOL_LABEL, WATCHED, Kind, Manifest, labels_of
from finetune_operator.cluster import ApiError, Cluster
from finetune_operator.controllers import CONTROLLERS
from finetune_operator.plan import Key, Sources

CRD_WAIT_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Backoffs:
    """Delays of kopf's retries without an end: with kopf's own eight, a minute of errors ends the watcher."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay * random.uniform(0.5, 1.0)
            delay = min(delay * 2, 15.0)


class Watch:
    """Keeps the cache like the API server and wakes the keys of what changed."""

    def __init__(self, cluster: Cluster, sources: Sources, wake: Callable[[Key], None]) -> None:
        self._cluster = cluster
        self._sources = sources
        self._wake = wake
        self.listed = False
        """Whether the cache was complete once; nothing may be decided before."""
        self.beat = time.monotonic()
        """When :meth:`resync` last went round, whether or not the API server answered."""

    async def fill(self) -> None:
        """List everything; waits for the definitions, which the chart installs together with the operator."""
        for kind in WATCHED:
            while True:
                try:
                    bodies = await self._list(kind, metadata_only=False)
                    break
                except ApiError as error:
                    logger.warning("cannot list %s yet: %s", kind, error)
                    await asyncio.sleep(CRD_WAIT_SECONDS)
            for body in bodies:
                self._sources.cache.store(kind, body)
        self.listed = True
        self._wake_all()

    async def resync(self) -> None:
        """Compare with the API server and look at every key again, for ever."""
        while True:
            await asyncio.sleep(self._sources.settings.resync_seconds * random.uniform(0.8, 1.2))
            self.beat = time.monotonic()
            try:
                for kind in WATCHED:
                    await self.compare(kind)
                metrics.last_resync.set_to_current_time()
            except ApiError as error:
                logger.warning("resync: %s", error)
            self._wake_all()

    async def compare(self, kind: str) -> None:
        """Drop what the API server does not have any more: known before the question, missing in the answer."""
        known = self._sources.cache.all(kind)
        there = {body["metadata"]["uid"] for body in await self._list(kind, metadata_only=True)}
        for body in known:
            if body["metadata"]["uid"] not in there:
                self.removed(kind, body)

    def seen(self, kind: str, body: Manifest) -> None:
        """An object was added or changed."""
        if self._sources.cache.store(kind, body):
            self._wake_keys(kind, body)

    def removed(self, kind: str, body: Manifest) -> None:
        """An object is gone."""
        if not self._sources.cache.remove(kind, body):
            return
        meta = body["metadata"]
        if kind == "FineTuneJob":
            self._sources.reports.forget_job(meta["uid"])
        if kind == "Pod" and POOL_LABEL in labels_of(body):
            self._sources.reports.forget_pod(meta["namespace"], labels_of(body)[POOL_LABEL], meta["name"])
        self._wake_keys(kind, body)

    def _wake_all(self) -> None:
        for kind, body in self._sources.cache.kinds():
            self._wake_keys(kind, body)

    def _wake_keys(self, kind: str, body: Manifest) -> None:
        for name, controller in CONTROLLERS.items():
            try:
                for key in controller.keys(self._sources, kind, body):
                    self._wake(key)
            except Exception:  # an object nobody foresaw must not end the process, and with it the work on all others
                meta = body["metadata"]
                logger.exception("%s %s/%s wakes no %s", kind, meta["namespace"], meta["name"], name)

    async def _list(self, kind: str, *, metadata_only: bool) -> list[Manifest]:
        found: list[Manifest] = []
        for namespace in self._sources.settings.watch_namespaces or (None,):
            found += await self._cluster.list_all(kind, namespace, metadata_only=metadata_only)
        return found


def configure(settings: kopf.OperatorSettings) -> None:
    """kopf as a watcher only."""
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True  # no list and watch of namespaces and CRDs: least RBAC
    settings.networking.error_backoffs = Backoffs()
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.watching.server_timeout = 300  # ended by the server before a proxy does it silently
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1.0  # a 410 makes kopf relist at once; not in a storm
    for kind in WATCHED.values():
        if not kind.ours:
            group, version = group_version(kind)
            settings.watching.label_selectors[group, version, kind.plural] = CHILD_SELECTOR


def registry(watch: Watch) -> kopf.OperatorRegistry:
    """One ``on.event`` handler per kind, and the login."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(login)
    for name, kind in WATCHED.items():
        group, version = group_version(kind)
        kopf.on.event(group, version, kind.plural, registry=handlers, id=name)(_handler(watch, name))
    return handlers


class Connection(kopf.ConnectionInfo):
    """kopf's connection for clusters whose certificates Kubernetes itself accepts.

    Python 3.13 verifies strictly by RFC 5280, which the certificates of several distributions fail (no key usage, no
    authority key identifier); chain, name and dates are verified as ever.
    """

    def as_ssl_context(self) -> ssl.SSLContext:
        """The context without the strictness."""
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


async def login(**kwargs: Any) -> Connection | None:
    """From files only; kopf's default login would import the whole synchronous client."""
    found = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
    return Connection(**vars(found)) if found else None


def group_version(kind: Kind) -> tuple[str, str]:
    """("batch", "v1") of batch/v1; the core group is empty."""
    group, _, version = kind.api_version.rpartition("/")
    return group, version


def _handler(watch: Watch, kind: str) -> Callable[..., Any]:
    async def on_event(event: Any, **_: Any) -> None:
        metrics.last_event.labels(kind).set_to_current_time()
        if event["type"] == "DELETED":
            watch.removed(kind, event["object"])
        else:
            watch.seen(kind, event["object"])

    return on_event
