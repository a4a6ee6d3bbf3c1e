"""The words between deciding and acting: a reconcile returns a Plan, :mod:`finetune_operator.act` carries it out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from finetune_api.pods import DesiredPool
from finetune_operator.cache import Cache, Manifest
from finetune_operator.reports import ReportStore
from finetune_operator.settings import Settings


class Key(NamedTuple):
    """What one worker at a time works on."""

    kind: Literal["FineTuneJob", "AdapterDeployment", "Pool"]
    namespace: str
    name: str


class Ref(NamedTuple):
    """One object; with a uid, only that incarnation of it."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str | None = None


class StatusWrite(NamedTuple):
    """The whole status an object shall have; nothing is sent when it has it already."""

    ref: Ref
    status: dict[str, Any]


class Event(NamedTuple):
    """A core/v1 Event about an object; the same one again is sent once."""

    regarding: Ref
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What shall happen next. Carried out in the order of the fields; the first error ends it and the key is tried again.

    But an object to be applied that has a controller is its controller's affair: where it is refused, only what would be said of
    that owner is left out.
    """

    reads: tuple[Ref, ...] = ()
    """Objects that are not cached and must be read first (ServiceAccount; Namespace; Event: the Warnings about
    ``uid``; Pod: those of the Job ``uid``).

    A plan with reads holds nothing else: reconcile is called again with :attr:`Sources.answers` filled.
    """
    create: tuple[Manifest, ...] = ()
    """Created under a deterministic name; when it exists already, its controller must be the same (else it is an error)."""
    apply: tuple[Manifest, ...] = ()
    """Server-side apply as field manager finetune-operator, forced; skipped when the same was applied and the object is unchanged since."""
    delete: tuple[Ref, ...] = ()
    """Deleted in the background, with the uid as precondition where there is one; gone already is fine."""
    statuses: tuple[StatusWrite, ...] = ()
    desired: DesiredPool | None = None
    """Pool keys: the reply to this pool's reports; None: unknown or gone (503)."""
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds after which the key shall be looked at again even if nothing happens."""


@dataclass(frozen=True)
class Sources:
    """All a controller may look at."""

    settings: Settings
    cache: Cache
    reports: ReportStore
    answers: Mapping[Ref, Any]
    """What this round's :attr:`Plan.reads` returned: an object or None (ServiceAccount), a list (Event, Pod)."""


class Controller(NamedTuple):
    """How keys of a kind are handled; all of it is synchronous and free of side effects."""

    keys: Callable[[Sources, str, Manifest], Iterable[Key]]
    """Keys an event about an object (its kind, its body) wakes; also asked of every cached object at each resync."""
    observe: Callable[[Sources, Key], Any]
    """The object of the key and what belongs to it; None when there is nothing to do any more."""
    reconcile: Callable[[Any, datetime], Plan]
    """Observation and time -> plan."""
    told: Callable[[Sources, Key], Iterable[Manifest]]
    """Objects whose status shall say that the key fails."""


def itself(sources: Sources, key: Key) -> list[Manifest]:
    """The object that has the key's kind and name, where it still is."""
    body = sources.cache.get(key.kind, key.namespace, key.name)
    return [body] if body else []


def ref_of(manifest: Manifest) -> Ref:
    """The reference to an object as it was read, uid included."""
    meta = manifest["metadata"]
    return Ref(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"], meta.get("uid"))
