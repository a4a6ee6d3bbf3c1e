"""The one place that acts: lets a key's controller decide, and carries its Plan out through the cluster.

Every action is safe to repeat. What the API server answers goes the way of a watch event at once, so that the next decision sees it.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Literal

from finetune_api.conditions import Condition, upsert
from finetune_api.model import MAX_SENTENCE
from finetune_operator.cache import JOB_UID_LABEL, OPERATOR, Manifest, labels_of
from finetune_operator.cluster import ApiError, Cluster
from finetune_operator.controllers import CONTROLLERS
from finetune_operator.plan import Event, Key, Plan, Ref, Sources, StatusWrite, ref_of

FAILURES_BEFORE_STALLED = 3
OUTDATED_SECONDS = 0.1
RECONCILE_ERROR = "ReconcileError"
FAILING: dict[str, dict[str, Literal["True", "False"]]] = {
    "FineTuneJob": {"Stalled": "True"},
    "AdapterDeployment": {"Ready": "False", "Reconciling": "False", "Stalled": "True"},
}
"""Conditions of an object that the operator fails on; a FineTuneJob goes by its stages, so its others and its columns stay."""

logger = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The controller's only clock."""
    return datetime.now(UTC)


class Refused(Exception):
    """What the API server refused of single owners' objects, by the owner's uid; everything else was carried out."""

    def __init__(self, errors: Mapping[str, ApiError]) -> None:
        super().__init__("; ".join(map(str, errors.values())))
        self.errors = errors


class Actor:
    """Carries plans out."""

    def __init__(self, cluster: Cluster, sources: Sources, seen: Callable[[str, Manifest], None]) -> None:
        self._cluster = cluster
        self._sources = sources
        self._seen = seen
        self._applied: dict[Ref, tuple[str, object]] = {}

    async def sync(self, key: Key) -> float | None:
        """Observe, decide, act; returns the seconds after which to look again."""
        plan = await self._decide(key)
        if key.kind == "Pool":
            self._sources.reports.desire(key.namespace, key.name, plan.desired)
        if not await self._carry_out(plan):
            return OUTDATED_SECONDS
        return plan.requeue_after

    async def failed(self, key: Key, error: Exception, failures: int) -> None:
        """Write a failure that does not go away into the status of those it concerns."""
        if failures < FAILURES_BEFORE_STALLED:
            return
        for body in CONTROLLERS[key.kind].told(self._sources, key):
            own = error.errors.get(body["metadata"]["uid"]) if isinstance(error, Refused) else error
            if own is not None:
                write = StatusWrite(ref_of(body), failed_status(body, own, utc_now()))
                await self._write_status(write, body["metadata"].get("generation"))

    async def _decide(self, key: Key) -> Plan:
        controller = CONTROLLERS[key.kind]
        answers: dict[Ref, Any] = {}
        while True:
            seen = controller.observe(replace(self._sources, answers=answers), key)
            plan = Plan() if seen is None else controller.reconcile(seen, utc_now())
            if not plan.reads:
                return plan
            wanted = [ref for ref in plan.reads if ref not in answers]
            if not wanted:
                raise RuntimeError(f"{key}: asks again for what it was told: {plan.reads}")
            for ref in wanted:
                answers[ref] = await self._read(ref)

    async def _read(self, ref: Ref) -> Any:
        match ref.kind:
            case "Event":
                return await self._cluster.warnings(ref)
            case "Pod":
                return await self._cluster.pods(ref)
            case _:
                return await self._cluster.get(ref)

    async def _carry_out(self, plan: Plan) -> bool:
        """False when it was decided on an old state: the newest is in the cache now."""
        decided_on = [self._generation(write.ref) for write in plan.statuses]  # nothing was awaited since
        for manifest in plan.create:
            if not await self._create(manifest):
                return False
        refused = await self._apply_all(plan.apply)
        for ref in plan.delete:
            await self._cluster.delete(ref)
            logger.info("deleted %s %s/%s", *ref[1:4])
        for event in plan.events:  # before the status: a crash in between repeats them, and repeated ones are dropped
            if event.regarding.uid not in refused:
                await self._emit(event)
        writes = [each for each in zip(plan.statuses, decided_on, strict=True) if each[0].ref.uid not in refused]
        written = [await self._write_status(*each) for each in writes]
        if refused:
            raise Refused(refused)
        return all(written)

    async def _apply_all(self, manifests: Sequence[Manifest]) -> dict[str, ApiError]:
        """What is refused of objects that one owner alone needs, by its uid: whatever has several owners, or none, ends the plan."""
        refused = {}
        for manifest in manifests:
            try:
                await self._apply(manifest)
            except ApiError as error:
                owner, _ = _owner(manifest)
                if owner is None:
                    raise
                refused[owner] = error
        return refused

    def _generation(self, ref: Ref) -> object:
        cached = self._sources.cache.get(ref.kind, ref.namespace, ref.name)
        return cached and cached["metadata"].get("generation")

    async def _create(self, manifest: Manifest) -> bool:
        """False when it exists, cannot be changed, and says something else: that is for the next decision, which sees it."""
        try:
            created = await self._cluster.create(manifest)
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            existing = await self._cluster.get(ref_of(manifest))
            if existing is None or _owner(existing) != _owner(manifest):
                raise
            self._seen(manifest["kind"], existing)
            return not manifest.get("immutable") or existing.get("data") == manifest["data"]
        logger.info("created %s %s/%s", *ref_of(created)[1:4])
        self._seen(manifest["kind"], created)
        return True

    async def _apply(self, manifest: Manifest) -> None:
        ref = ref_of(manifest)
        cached = self._sources.cache.get(ref.kind, ref.namespace, ref.name)
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        if cached is not None:
            now = (digest, _spec_version(cached))
            known = self._applied.get(ref)
            # After a restart nothing is known of earlier applies: an object that looks as it should is left alone.
            if known == now or (known is None and contains(cached, manifest)):
                self._applied[ref] = now
                return
        answer = await self._cluster.apply(manifest)
        logger.info("applied %s %s/%s", *ref[1:4])
        self._applied[ref] = (digest, _spec_version(answer))
        self._seen(ref.kind, answer)

    async def _write_status(self, write: StatusWrite, decided_on: object) -> bool:
        """Patch what differs; False when it was decided on another generation, or an old state.

        The cache may have gone on while the plan was carried out, and then its version would let pass what is about an old spec:
        startTime above all, which locks the spec that was frozen.
        """
        ref = write.ref
        cached = self._sources.cache.get(ref.kind, ref.namespace, ref.name)
        if cached is None or cached["metadata"].get("uid") != ref.uid:
            return True  # deleted meanwhile
        if cached["metadata"].get("generation") != decided_on:
            return False
        patch = merge_patch(cached.get("status") or {}, write.status)
        if not patch:
            return True
        try:
            answer = await self._cluster.patch_status(ref, patch, cached["metadata"]["resourceVersion"])
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return True
            if error.status != HTTPStatus.CONFLICT:
                raise
            newest = await self._cluster.get(ref)
            if newest is not None:
                self._sources.cache.refuse(ref.kind, cached)
                self._seen(ref.kind, newest)
            return False
        if "state" in patch:
            logger.info("%s %s/%s is %s", *ref[1:4], patch["state"])
        self._seen(ref.kind, answer)
        return True

    async def _emit(self, event: Event) -> None:
        """Best effort: an Event that cannot be written must not hold the job up."""
        try:
            await self._cluster.create(event_manifest(event, utc_now()))
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                logger.warning(
                    "Event %s about %s was not written (%s): %s",
                    event.reason,
                    event.regarding.name,
                    error,
                    event.message,
                )


def failed_status(body: Manifest, error: Exception, now: datetime) -> Manifest:
    """An object's status with a failure of the operator in it."""
    status = body.get("status") or {}
    message = f"The operator failed and tries again: {error}"[:MAX_SENTENCE]
    conditions = [Condition.model_validate(condition) for condition in status.get("conditions") or []]
    for kind, value in FAILING[body["kind"]].items():
        condition = Condition(
            type=kind,
            status=value,
            reason=RECONCILE_ERROR,
            message=message,
            last_transition_time=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            observed_generation=body["metadata"].get("generation", 0),
        )
        conditions = upsert(conditions, condition)
    columns = {"state": RECONCILE_ERROR, "message": message} if "Ready" in FAILING[body["kind"]] else {}
    return {**status, **columns, "conditions": [condition.wire() for condition in conditions]}


def _owner(manifest: Manifest) -> tuple[str | None, str | None]:
    owners = manifest["metadata"].get("ownerReferences") or []
    controller = next((owner["uid"] for owner in owners if owner.get("controller")), None)
    return controller, labels_of(manifest).get(JOB_UID_LABEL)


def _spec_version(body: Manifest) -> object:
    meta = body["metadata"]
    return meta.get("uid"), meta.get("generation") or meta.get("resourceVersion")


def contains(actual: Any, wanted: Any) -> bool:
    """Whether every field of ``wanted`` has the same value in ``actual``; lists must be equally long."""
    if isinstance(wanted, dict):
        return isinstance(actual, dict) and all(contains(actual.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(actual, list)
            and len(actual) == len(wanted)
            and all(contains(one, other) for one, other in zip(actual, wanted, strict=True))
        )
    return bool(actual == wanted)


def merge_patch(old: Manifest, new: Manifest) -> Manifest:
    """The JSON merge patch (RFC 7386) that turns ``old`` into ``new``; absent fields become null."""
    patch: Manifest = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old or old[key] != value:
            both = isinstance(old.get(key), dict) and isinstance(value, dict)
            patch[key] = merge_patch(old[key], value) if both else value
    return patch


def event_manifest(event: Event, now: datetime) -> Manifest:
    """A core/v1 Event, named by its contents: the same one again is a conflict, which is dropped."""
    regarding = event.regarding
    identity = "\n".join([str(regarding.uid), event.type, event.reason, event.message])
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{regarding.name}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
            "namespace": regarding.namespace,
        },
        "involvedObject": {
            "apiVersion": regarding.api_version,
            "kind": regarding.kind,
            "namespace": regarding.namespace,
            "name": regarding.name,
            "uid": regarding.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:MAX_SENTENCE],
        "source": {"component": OPERATOR},
        "reportingComponent": OPERATOR,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
