"""What the API server was last seen to hold: one in-memory copy of each watched object, with the indexes reconciles need.

Filled by :mod:`finetune_operator.watch`; writes put their answer here too, so that the next decision sees them.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from finetune_api import API_VERSION

Manifest = dict[str, Any]

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "finetune-operator"
JOB_LABEL = "finetune.dev/job"
JOB_UID_LABEL = "finetune.dev/job-uid"
STAGE_LABEL = "finetune.dev/stage"
ATTEMPT_LABEL = "finetune.dev/attempt"
POOL_LABEL = "finetune.dev/pool"
INDEXED = (JOB_UID_LABEL, POOL_LABEL)


class Kind(NamedTuple):
    """A kind of object the operator knows."""

    api_version: str
    plural: str
    ours: bool = False
    """Watched whole; children are watched by the label managed-by only."""


WATCHED = {
    "FineTuneJob": Kind(API_VERSION, "finetunejobs", ours=True),
    "AdapterDeployment": Kind(API_VERSION, "adapterdeployments", ours=True),
    "Job": Kind("batch/v1", "jobs"),
    "Pod": Kind("v1", "pods"),
    "ConfigMap": Kind("v1", "configmaps"),
    "Service": Kind("v1", "services"),
    "Deployment": Kind("apps/v1", "deployments"),
}
CHILD_SELECTOR = f"{MANAGED_BY}={OPERATOR}"

Place = tuple[str, str]  # namespace, name


def labels_of(manifest: Manifest) -> dict[str, str]:
    """An object's labels."""
    return manifest["metadata"].get("labels") or {}


class Cache:
    """Objects by kind, namespace and name. Callers must not change what they are given."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Place, Manifest]] = {kind: {} for kind in WATCHED}
        self._places: dict[tuple[str, str, str, str], set[Place]] = defaultdict(set)

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """The object, or None."""
        return self._objects[kind].get((namespace, name))

    def all(self, kind: str, namespace: str | None = None) -> list[Manifest]:
        """All objects of a kind, sorted by name; of one namespace, if given."""
        found = self._objects[kind].items()
        return [body for place, body in sorted(found, key=lambda item: item[0]) if namespace in (None, place[0])]

    def labelled(self, kind: str, namespace: str, label: str, value: str) -> list[Manifest]:
        """Objects of a namespace that carry an indexed label (job-uid, pool), sorted by name."""
        places = sorted(self._places.get((kind, namespace, label, value), ()))
        return [self._objects[kind][place] for place in places]

    def kinds(self) -> Iterator[tuple[str, Manifest]]:
        """Every object with its kind."""
        for kind, objects in self._objects.items():
            for body in list(objects.values()):
                yield kind, body

    def store(self, kind: str, body: Manifest) -> bool:
        """Remember an object; an older state than the known one is ignored. Returns whether anything changed."""
        meta = body["metadata"]
        place = (meta["namespace"], meta["name"])
        known = self._objects[kind].get(place)
        if known is not None:
            if _version(body) <= _version(known) and known["metadata"].get("uid") == meta.get("uid"):
                return False
            self._unindex(kind, place, known)
        self._objects[kind][place] = {**body, "metadata": {k: v for k, v in meta.items() if k != "managedFields"}}
        for index in self._indexes(kind, body):
            self._places[index].add(place)
        return True

    def remove(self, kind: str, body: Manifest) -> bool:
        """Forget an object, unless another incarnation took its name. Returns whether anything changed."""
        meta = body["metadata"]
        place = (meta["namespace"], meta["name"])
        known = self._objects[kind].get(place)
        if known is None or known["metadata"].get("uid") != meta.get("uid"):
            return False
        self._unindex(kind, place, known)
        del self._objects[kind][place]
        return True

    def _unindex(self, kind: str, place: Place, body: Manifest) -> None:
        for index in self._indexes(kind, body):
            self._places[index].discard(place)
            if not self._places[index]:
                del self._places[index]

    def _indexes(self, kind: str, body: Manifest) -> list[tuple[str, str, str, str]]:
        labels = labels_of(body)
        namespace = body["metadata"]["namespace"]
        return [(kind, namespace, label, labels[label]) for label in INDEXED if label in labels]


def _version(body: Manifest) -> int:
    """Resource versions are etcd revisions: comparable numbers (KEP-5504 made that part of the API)."""
    return int(body["metadata"].get("resourceVersion") or 0)
