"""The API server's part in tests of the Actor, in memory. Nothing of the operator is replaced."""

from collections.abc import Callable
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
        self.applied: list[dict[str, Any]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens while an object is created or applied."""

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        """Keep an object, in a state newer than any before."""
        meta = body["metadata"]
        version = 1 + max((int(each["metadata"].get("resourceVersion", 0)) for each in self.bodies.values()), default=0)
        kept = {**body, "metadata": {"uid": f"uid-{version}", **meta, "resourceVersion": str(version)}}
        self.bodies[body["kind"], meta["name"]] = kept
        return kept

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        return self.bodies.get((ref.kind, ref.name))

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.meanwhile()
        if (manifest["kind"], manifest["metadata"]["name"]) in self.bodies:
            raise ApiError(409, "exists")
        return self.put(manifest)

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.meanwhile()
        known = self.bodies.get((manifest["kind"], manifest["metadata"]["name"]), {})
        metadata = {**known.get("metadata", {}), **manifest["metadata"]}
        self.applied.append(self.put({**known, **manifest, "metadata": metadata}))
        return self.applied[-1]

    async def delete(self, ref: Ref) -> None:
        known = self.bodies.get((ref.kind, ref.name))
        if known is not None and ref.uid in (None, known["metadata"]["uid"]):
            del self.bodies[ref.kind, ref.name]

    async def patch_status(self, ref: Ref, status: Any, version: str) -> dict[str, Any]:
        body = self.bodies[ref.kind, ref.name]
        if body["metadata"]["resourceVersion"] != version:
            raise ApiError(409, "outdated")
        self.patches.append(status)
        merged = {**body.get("status", {}), **status}
        return self.put({**body, "status": {key: value for key, value in merged.items() if value is not None}})

    async def list_all(self, kind: str, namespace: str | None, *, metadata_only: bool = False) -> list[Any]:
        return [body for (known, _), body in self.bodies.items() if known == kind]


def an_actor(server: Any, *known: dict[str, Any]) -> tuple[Actor, Cache]:
    cache = Cache()
    for body in known:
        cache.store(body["kind"], body)
    sources = Sources(SETTINGS, cache, ReportStore(since=act.utc_now()), {})

    def seen(kind: str, body: dict[str, Any]) -> None:
        cache.store(kind, body)

    return Actor(server, sources, seen), cache
