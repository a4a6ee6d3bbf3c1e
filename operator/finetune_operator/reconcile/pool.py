"""Decide what a pool needs next: server pods, their configuration, the Services, and its members' status. Pure.

The key is the pool, never one AdapterDeployment, and live members are listed before each write: so none of them can undo
what another needs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.pods import DesiredAdapter, DesiredPool
from finetune_api.reasons import ServingReason
from finetune_api.v1alpha1.runtime import ProviderRuntime
from finetune_operator.cache import POOL_LABEL, Cache, Manifest, labels_of
from finetune_operator.manifests import serving
from finetune_operator.manifests.serving import ServerPool
from finetune_operator.plan import Controller, Key, Plan, Ref, Sources, ref_of
from finetune_operator.reconcile import adapterdeployment_status, service_account
from finetune_operator.reconcile.adapterdeployment import concerned
from finetune_operator.reconcile.finding import Finding
from finetune_operator.reconcile.obstacles import PATIENCE_SECONDS
from finetune_operator.reconcile.pool_members import KIND, Member, member, members, referenced_job, seated
from finetune_operator.reconcile.pool_readiness import REPORT_WAIT, Pods, is_ready, trouble, verdict
from finetune_operator.reconcile.pool_split import desired_split, named
from finetune_operator.settings import Settings

OBJECTS = ("Deployment", "ConfigMap", "Service")
"""Kinds of the pool's own objects, all of the pool's name."""
LOOK_AGAIN_SECONDS = 10.0
MAX_ASKED = 3
"""Pods whose Warning events are read; they all say the same."""


@dataclass(frozen=True)
class Observation:
    """A pool's members and objects."""

    key: Key
    settings: Settings
    members: tuple[Member, ...]
    """Oldest first, each with what stands in its way."""
    left: tuple[Member, ...]
    """Members that cannot be carried out as they stand: the pool goes on for them as it is."""
    neighbours: Mapping[str, Member]
    """All AdapterDeployments of the namespace by name: a split may name one of another pool."""
    objects: tuple[Manifest, ...]
    """Deployment, ConfigMap and Service of the pool's name, where they exist."""
    services: Mapping[str, Manifest]
    """The members' own Services, where they exist."""
    pods: Pods
    answers: Mapping[Ref, Any]

    @property
    def deployment(self) -> Manifest | None:
        """The pool's Deployment."""
        return next((each for each in self.objects if each["kind"] == "Deployment"), None)


def keys(sources: Sources, kind: str, body: Manifest) -> Iterator[Key]:
    """Pools that an AdapterDeployment is in, or was in; the pool of an object of ours."""
    namespace = body["metadata"]["namespace"]
    for each in [*concerned(sources.cache, kind, body), *splitting(sources.cache, kind, body)]:
        found = member(each, referenced_job(sources.cache, each))
        names = {found.pool_name, found.status.pool}
        yield from (Key("Pool", namespace, name) for name in names if name)
    if POOL_LABEL in labels_of(body):
        yield Key("Pool", namespace, labels_of(body)[POOL_LABEL])


def splitting(cache: Cache, kind: str, body: Manifest) -> list[Manifest]:
    """AdapterDeployments whose split names one that has changed."""
    if kind != KIND:
        return []
    meta = body["metadata"]
    return [each for each in cache.all(KIND, meta["namespace"]) if meta["name"] in named(each)]


def observe(sources: Sources, key: Key) -> Observation | None:
    """Collect it from the cache; None: nobody wants it, and nothing is there."""
    cache, namespace = sources.cache, key.namespace
    everyone = members(cache, namespace)
    seats = list(seated(each for each in everyone if each.pool_name == key.name))
    mine, left = tuple(each for each in seats if each.pool), tuple(each for each in seats if not each.pool)
    objects = tuple(found for kind in OBJECTS if (found := cache.get(kind, namespace, key.name)))
    if not seats and not objects:
        return None
    alive = [
        pod
        for pod in cache.labelled("Pod", namespace, POOL_LABEL, key.name)
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]
    services = {each.name: found for each in mine if (found := cache.get("Service", namespace, each.name))}
    said = Pods(alive, sources.reports.of_pool(namespace, key.name), None, sources.reports.since)
    neighbours = {each.name: each for each in everyone}
    return Observation(key, sources.settings, mine, left, neighbours, objects, services, said, sources.answers)


def reconcile(seen: Observation, now: datetime) -> Plan:
    """The pool as it shall be."""
    if not seen.members and seen.left:
        return Plan(desired=told_before(seen))
    if not seen.members:
        return Plan(delete=tuple(ref_of(each) for each in seen.objects))
    questions = tuple(ref for ref in [*reads(seen), *late_pods(seen, now)] if ref not in seen.answers)
    if questions:
        return Plan(reads=questions)
    pool = seen.members[0].pool
    assert pool is not None
    refused = not_allowed(seen, pool)
    if refused is not None:
        plan = Plan(delete=tuple(ref_of(each) for each in [*seen.objects, *seen.services.values()]))
        judged = [replace(each, is_blocked=True, finding=refused) for each in seen.members]
        return with_statuses(plan, seen, judged, now)
    judged = [with_service(seen, each) for each in seen.members]
    return with_statuses(wanted(seen, pool, judged), seen, judged, now)


def reads(seen: Observation) -> Iterator[Ref]:
    """What must be asked: the service account, and whether a member's name is free for its Service."""
    for each in seen.members:
        if each.pool and each.pool.service_account:
            yield service_account.service_account(seen.key.namespace, each.pool.service_account)
        if not each.is_blocked and each.name not in seen.services:
            yield service_ref(seen, each)


def service_ref(seen: Observation, member: Member) -> Ref:
    """The Service of a member's name."""
    return Ref("v1", "Service", seen.key.namespace, member.name)


def late_pods(seen: Observation, now: datetime) -> Iterator[Ref]:
    """Pods whose Warning events may say why they do not come up."""
    patience = timedelta(seconds=PATIENCE_SECONDS)
    late = [pod for pod in seen.pods.all if not is_ready(pod) and now - created(pod) > patience]
    if not seen.pods.ready:
        yield from (ref_of(pod)._replace(api_version="v1", kind="Event") for pod in late[:MAX_ASKED])


def created(pod: Manifest) -> datetime:
    """When a pod was created."""
    return datetime.fromisoformat(pod["metadata"]["creationTimestamp"])


def not_allowed(seen: Observation, pool: ServerPool) -> Finding | None:
    """Whether pods may run as the service account the spec names."""
    if pool.service_account is None:
        return None
    sentence = service_account.refusal(seen.key.namespace, pool.service_account, seen.answers)
    return Finding(ServingReason.NOT_ALLOWED, sentence) if sentence else None


def with_service(seen: Observation, member: Member) -> Member:
    """A member whose Service would take the place of somebody else's is told so."""
    existing = seen.answers.get(service_ref(seen, member))
    if existing is None or POOL_LABEL in labels_of(existing):
        return member
    message = f"A Service named {member.name} exists and is not of this operator; rename the AdapterDeployment."
    return replace(member, is_blocked=True, finding=Finding(ServingReason.NAME_TAKEN, message))


def wanted(seen: Observation, pool: ServerPool, judged: list[Member]) -> Plan:
    """Objects that shall exist, and the reply to the gateways."""
    everyone = sorted([*judged, *seen.left], key=lambda each: each.name)
    owners = [serving.owner_reference(each.body) for each in everyone]
    before = told_before(seen) if seen.left else None
    served = [each for each in judged if not each.is_blocked]
    blocked = [seen.services[each.name] for each in judged if each.is_blocked and each.name in seen.services]
    neighbours = {**seen.neighbours, **{each.name: each for each in judged}}
    desired = DesiredPool(
        namespace=pool.namespace,
        pool=pool.name,
        base_model=pool.base_model,
        provider=pool.runtime if isinstance(pool.runtime, ProviderRuntime) else None,
        secret_ref=pool.secret_ref if isinstance(pool.runtime, ProviderRuntime) else None,
        adapters=[*(desired_adapter(each, neighbours) for each in served), *(before.adapters if before else [])],
    )
    return Plan(
        apply=(
            serving.config_map(pool, desired, owners, seen.settings),
            serving.deployment(pool, replicas(seen, judged), owners, seen.settings),
            serving.service(pool, pool.name, owners),
            *(
                serving.service(pool, each.name, [serving.owner_reference(each.body, controller=True)])
                for each in served
            ),
        ),
        delete=tuple(ref_of(each) for each in blocked),
        desired=desired,
    )


def told_before(seen: Observation) -> DesiredPool | None:
    """What the gateways were last told, of the members that are left as they were."""
    config = next((each for each in seen.objects if each["kind"] == "ConfigMap"), None)
    if config is None:
        return None
    told = DesiredPool.model_validate_json(config["data"][serving.CONFIG_KEY])
    names = {each.name for each in seen.left if not each.is_blocked}
    goes_on = [each for each in told.adapters if each.deployment in names]
    return told.model_copy(update={"adapters": goes_on})


def replicas(seen: Observation, judged: list[Member]) -> int:
    """The most that anybody asks for; of members that are left as they were, the Deployment knows."""
    before = seen.deployment["spec"].get("replicas", 1) if seen.left and seen.deployment else 1
    return max(before, *(each.replicas for each in judged))


def desired_adapter(member: Member, neighbours: Mapping[str, Member]) -> DesiredAdapter:
    """A member as its gateways are told."""
    assert member.adapter
    assert member.pool
    return DesiredAdapter(
        deployment=member.name,
        model=member.model,
        uri=None if member.adapter.provider else member.adapter.uri,
        digest=member.adapter.digest,
        provider_model=member.adapter.provider_model,
        secret_ref=member.pool.secret_ref,
        split=desired_split(member, neighbours),
        sticky_header=member.traffic and member.traffic.sticky_header,
    )


def with_statuses(plan: Plan, seen: Observation, judged: list[Member], now: datetime) -> Plan:
    """The plan with every member's status; looked at again while something is under way."""
    warnings = [event for ref in late_pods(seen, now) for event in seen.answers[ref]]
    pods = replace(seen.pods, trouble=trouble(seen.deployment, seen.pods.all, warnings))
    writes, events, open_ends = [], [], False
    for each in judged:
        found = verdict(each, pods, now)
        open_ends = open_ends or not found.is_known or not pods.ready
        write, said = adapterdeployment_status.write(each, found, now)
        writes.append(write)
        events += said
    again = min(LOOK_AGAIN_SECONDS, REPORT_WAIT / timedelta(seconds=1)) if open_ends else None
    return replace(plan, statuses=tuple(writes), events=tuple(events), requeue_after=again)


def told(sources: Sources, key: Key) -> list[Manifest]:
    """A pool is no object of the API: its members tell what becomes of it, but for those that are left as they were."""
    return [each.body for each in members(sources.cache, key.namespace) if each.pool and each.pool.name == key.name]


CONTROLLER = Controller(keys, observe, reconcile, told)
