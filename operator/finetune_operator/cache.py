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
UPSTREAM = "baseModel.jobRef"
INITIAL = "adapter.initial.jobRef"
PREVIOUS = "evaluation.previous.jobRef"
REWARD_MODELS = {"grpo": "method.grpo.rewardModel.jobRef", "ppo": "method.ppo.rewardModel.jobRef"}
UPSTREAMS = (UPSTREAM, INITIAL, PREVIOUS, *REWARD_MODELS.values())
"""The jobs a FineTuneJob waits for."""
DEPLOYS = "deploy"
SERVES = "adapter.jobRef"
REFERENCES = {"FineTuneJob": (*UPSTREAMS, DEPLOYS), "AdapterDeployment": (SERVES,)}
"""Fields that name another object (their member ``name``), so that an event about it finds who refers to it."""


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

Index = tuple[str, str, str, str]  # kind, namespace, label or reference, value


def labels_of(manifest: Manifest) -> dict[str, str]:
    """An object's labels."""
    return manifest["metadata"].get("labels") or {}


class Cache:
    """Objects by kind, namespace and name. Callers must not change what they are given."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, dict[str, Manifest]]] = {kind: {} for kind in WATCHED}
        self._indexes: dict[Index, set[str]] = defaultdict(set)

    def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """The object, or None."""
        return self._objects[kind].get(namespace, {}).get(name)

    def all(self, kind: str, namespace: str | None = None) -> list[Manifest]:
        """All objects of a kind, sorted by name; of one namespace, if given."""
        namespaces = sorted(self._objects[kind]) if namespace is None else [namespace]
        return [body for each in namespaces for _, body in sorted(self._objects[kind].get(each, {}).items())]

    def labelled(self, kind: str, namespace: str, label: str, value: str) -> list[Manifest]:
        """Objects of a namespace that carry an indexed label (job-uid, pool), sorted by name."""
        return [
            self._objects[kind][namespace][name]
            for name in sorted(self._indexes.get((kind, namespace, label, value), ()))
        ]

    def referring(self, kind: str, namespace: str, reference: str, name: str) -> list[Manifest]:
        """Objects of a namespace whose reference (one of REFERENCES) names another, sorted by name."""
        return self.labelled(kind, namespace, reference, name)

    def kinds(self) -> Iterator[tuple[str, Manifest]]:
        """Every object with its kind."""
        for kind in WATCHED:
            for body in self.all(kind):
                yield kind, body

    def store(self, kind: str, body: Manifest) -> bool:
        """Remember an object; an older state than the known one is ignored. Returns whether anything changed."""
        meta = body["metadata"]
        known = self.get(kind, meta["namespace"], meta["name"])
        if known is not None:
            if _version(body) <= _version(known) and known["metadata"].get("uid") == meta.get("uid"):
                return False
            self._forget(kind, known)
        slim = {**body, "metadata": {k: v for k, v in meta.items() if k != "managedFields"}}
        self._objects[kind].setdefault(meta["namespace"], {})[meta["name"]] = slim
        for index in _indexes(kind, body):
            self._indexes[index].add(meta["name"])
        return True

    def remove(self, kind: str, body: Manifest) -> bool:
        """Forget an object, unless another incarnation took its name. Returns whether anything changed."""
        meta = body["metadata"]
        known = self.get(kind, meta["namespace"], meta["name"])
        if known is None or known["metadata"].get("uid") != meta.get("uid"):
            return False
        self._forget(kind, known)
        return True

    def refuse(self, kind: str, state: Manifest) -> None:
        """Forget a state that the API server has refused, unless a newer one is known: what is stored next takes its place even
        under a lower version. A restored etcd counts on from its backup."""
        meta = state["metadata"]
        if self.get(kind, meta["namespace"], meta["name"]) is state:
            self._forget(kind, state)

    def _forget(self, kind: str, body: Manifest) -> None:
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        for index in _indexes(kind, body):
            self._indexes[index].discard(name)
            if not self._indexes[index]:
                del self._indexes[index]
        del self._objects[kind][namespace][name]
        if not self._objects[kind][namespace]:
            del self._objects[kind][namespace]


def _indexes(kind: str, body: Manifest) -> list[Index]:
    namespace = body["metadata"]["namespace"]
    labels = labels_of(body)
    found = [(kind, namespace, label, labels[label]) for label in INDEXED if label in labels]
    for reference in REFERENCES.get(kind, ()):
        if (name := named_by(body, reference)) is not None:
            found.append((kind, namespace, reference, name))
    return found


def named_by(body: Manifest, reference: str) -> str | None:
    """Name of the object that a reference of the spec names; under another version of the definition it may be none."""
    named: Any = body["spec"]
    for member in (*reference.split("."), "name"):
        named = named.get(member) if isinstance(named, dict) else None
    return named if isinstance(named, str) else None


def _version(body: Manifest) -> int:
    """Resource versions are etcd revisions: comparable numbers (KEP-5504 made that part of the API)."""
    return int(body["metadata"].get("resourceVersion") or 0)
