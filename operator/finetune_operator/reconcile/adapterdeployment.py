"""Decide about an AdapterDeployment that is in no pool: it waits, or cannot be carried out as it stands. Pure.

One that has an adapter belongs to its pool's key (:mod:`finetune_operator.reconcile.pool`).
"""

from collections.abc import Iterator
from datetime import datetime

from finetune_operator.cache import Cache, Manifest
from finetune_operator.plan import Controller, Key, Plan, Sources, itself, ref_of
from finetune_operator.reconcile import adapterdeployment_status
from finetune_operator.reconcile.pool_members import KIND, Member, job_name, member, referenced_job
from finetune_operator.reconcile.pool_readiness import Verdict


def concerned(cache: Cache, kind: str, body: Manifest) -> list[Manifest]:
    """AdapterDeployments an event about an object concerns: itself, or those that refer to the job."""
    if kind == KIND:
        return [body]
    meta = body["metadata"]
    if kind == "FineTuneJob":
        return [each for each in cache.all(KIND, meta["namespace"]) if job_name(each) == meta["name"]]
    return []


def keys(sources: Sources, kind: str, body: Manifest) -> Iterator[Key]:
    """Its own changes, and those of its job."""
    for each in concerned(sources.cache, kind, body):
        yield Key("AdapterDeployment", each["metadata"]["namespace"], each["metadata"]["name"])


def observe(sources: Sources, key: Key) -> tuple[Member, Manifest | None] | None:
    """The AdapterDeployment and its Service; None: it is gone, or its pool's affair."""
    body = sources.cache.get(KIND, key.namespace, key.name)
    if body is None or "deletionTimestamp" in body["metadata"]:
        return None
    found = member(body, referenced_job(sources.cache, body))
    return (found, sources.cache.get("Service", key.namespace, key.name)) if found.pool is None else None


def reconcile(seen: tuple[Member, Manifest | None], now: datetime) -> Plan:
    """Say what is missing; the Service of an earlier pool would lead to others' models."""
    found, service = seen
    if found.is_left:
        write, events = adapterdeployment_status.leave(found, now)
        return Plan(statuses=(write,), events=tuple(events))
    write, events = adapterdeployment_status.write(found, Verdict(found.finding), now)
    stale = (ref_of(service),) if service else ()
    return Plan(delete=stale, statuses=(write,), events=tuple(events))


CONTROLLER = Controller(keys, observe, reconcile, itself)
