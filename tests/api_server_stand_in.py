"""The API server's part in tests of the Actor, in memory. Nothing of the operator is replaced."""

from typing import Any

from builders import SETTINGS, a_job
from finetune_operator import act
from finetune_operator.act import Actor
from finetune_operator.cache import Cache
from finetune_operator.cluster import ApiError
from finetune_operator.plan import Ref, Sources
from finetune_operator.reports import ReportStore


def stored(version: str, **meta: Any) -> dict[str, Any]:
    body = a_job()
    return {**body, "metadata": {**body["metadata"], "resourceVersion": version, **meta}}


class Server:
    """The API server's part for an Actor: keeps objects, refuses outdated patches."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self.bodies = {(body["kind"], body["metadata"]["name"]): body for body in bodies}
        self.patches: list[Any] = []
        self.applied: list[Any] = []

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        return self.bodies.get((ref.kind, ref.name))

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        key = (manifest["kind"], manifest["metadata"]["name"])
        if key in self.bodies:
            raise ApiError(409, "exists")
        self.bodies[key] = manifest
        return manifest

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        meta = {**manifest["metadata"], "resourceVersion": str(len(self.applied) + 1)}
        self.applied.append({**manifest, "metadata": meta})
        return self.applied[-1]

    async def patch_status(self, ref: Ref, status: Any, version: str) -> dict[str, Any]:
        body = self.bodies[ref.kind, ref.name]
        if body["metadata"]["resourceVersion"] != version:
            raise ApiError(409, "outdated")
        self.patches.append(status)
        return {**body, "metadata": {**body["metadata"], "resourceVersion": str(int(version) + 1)}, "status": status}

    async def list_all(self, kind: str, namespace: str | None, *, metadata_only: bool = False) -> list[Any]:
        return [body for (known, _), body in self.bodies.items() if known == kind]


def an_actor(server: Server, *known: dict[str, Any]) -> tuple[Actor, Cache]:
    cache = Cache()
    for body in known:
        cache.store(body["kind"], body)
    sources = Sources(SETTINGS, cache, ReportStore(since=act.utc_now()), {})
    return Actor(server, sources, lambda kind, body: cache.store(kind, body) or None), cache  # type: ignore[arg-type]
