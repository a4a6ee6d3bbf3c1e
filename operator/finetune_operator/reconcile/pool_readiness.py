"""Whether a pool's pods serve an adapter: what the kubelet says of them, and what their gateways reported. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.pods import LoadedAdapter, PoolReport
from finetune_api.reasons import ServingReason
from finetune_api.v1alpha1.adapterdeployment import PodAdapter, ShareStatus
from finetune_operator.cache import Manifest
from finetune_operator.reconcile.finding import Finding
from finetune_operator.reconcile.obstacles import newest_warning, obstacle
from finetune_operator.reconcile.pool_members import Member
from finetune_operator.reconcile.pool_split import is_applied, split_status, unanswered
from finetune_operator.reports import Received

MAX_PODS = 64
"""Of status.pods."""
REPORT_WAIT = timedelta(seconds=30)
"""After its start the operator knows no reports; until then the last Ready stays."""


@dataclass(frozen=True)
class Pods:
    """A pool's pods and what they said."""

    all: Sequence[Manifest]
    reports: Mapping[str, Received[PoolReport]]
    trouble: str | None
    """Why a pod does not start."""
    since: datetime
    """When the operator began to listen."""

    @property
    def ready(self) -> list[str]:
        """Names of the pods that clients reach."""
        return [name_of(pod) for pod in self.all if is_ready(pod)]


@dataclass(frozen=True)
class Verdict:
    """What is known of one AdapterDeployment."""

    finding: Finding | None
    """Why it is not Ready; None: it is."""
    pods: tuple[PodAdapter, ...] = ()
    ready_replicas: int = 0
    split: tuple[ShareStatus, ...] = ()
    """Its shares, with what keeps one from getting anything."""
    is_known: bool = True
    """False: pods have not reported yet to an operator that has just started, so what was said before stays."""


def verdict(member: Member, pods: Pods, now: datetime) -> Verdict:
    """At least one ready pod, and every ready pod answers with this digest. Starting pods do not count."""
    said = {name: of_deployment(received.report, member.name) for name, received in pods.reports.items()}
    digest = member.adapter.digest if member.adapter else None
    listed = tuple(pod_adapter(name_of(pod), said.get(name_of(pod))) for pod in pods.all[:MAX_PODS])
    serving = [name for name in pods.ready if (one := said.get(name)) and serves(one, digest)]
    shares = split_status(member, [one.split for one in said.values() if one])
    seen = Verdict(member.finding, listed, len(serving), shares)
    if member.finding is not None:
        return seen
    if not pods.ready:
        return replace(seen, finding=not_started(pods))
    silent = [name for name in pods.ready if name not in pods.reports]
    if silent and now - pods.since < REPORT_WAIT:
        return replace(seen, is_known=False)
    others = [name for name in pods.ready if name not in serving]
    if others:
        return replace(seen, finding=why_not(others[0], said.get(others[0]), digest))
    return replace(seen, finding=unsplit(member, {name: one for name in pods.ready if (one := said.get(name))}))


def unsplit(member: Member, said: Mapping[str, LoadedAdapter]) -> Finding | None:
    """Whether a pod does not split the traffic as it is asked to."""
    for pod, loaded in said.items():
        if not is_applied(member, loaded.split):
            return Finding(ServingReason.LOADING, f"Pod {pod} has not taken over traffic.split yet.")
        if sentence := unanswered(loaded.split):
            return Finding(ServingReason.SPLIT_INCOMPLETE, f"Pod {pod} {sentence}; the other shares answer.")
    return None


def serves(said: LoadedAdapter, digest: str | None) -> bool:
    """Whether a pod answers with the digest asked for, and was asked for it."""
    return said.state == "Loaded" and said.desired_digest == digest == said.digest


def why_not(pod: str, said: LoadedAdapter | None, digest: str | None) -> Finding:
    """What a ready pod that does not serve the digest said about it."""
    if said is None or said.desired_digest != digest or said.state != "Failed":
        still = f"; {said.digest} still serves" if said and said.digest and said.digest != digest else ""
        return Finding(ServingReason.LOADING, f"Pod {pod} is loading {digest}{still}.")
    still = f" The earlier adapter {said.digest} still serves." if said.digest else ""
    reason = ServingReason(said.reason) if said.reason in set(ServingReason) else ServingReason.SERVER_ERROR
    return Finding(reason, f"Pod {pod}: {said.message}.{still}")


def not_started(pods: Pods) -> Finding:
    """No pod is ready."""
    if pods.trouble:
        return Finding(ServingReason.POD_NOT_STARTING, pods.trouble)
    return Finding(ServingReason.STARTING, "The server pods are starting: no pod is ready yet.")


def pod_adapter(pod: str, said: LoadedAdapter | None) -> PodAdapter:
    """One entry of status.pods."""
    if said is None or said.state == "Loading":
        return PodAdapter(pod=pod, state="Starting", digest=said.digest if said else None)
    return PodAdapter(pod=pod, state=said.state, digest=said.digest, message=said.message)


def of_deployment(report: PoolReport, deployment: str) -> LoadedAdapter | None:
    """The part of a report about one AdapterDeployment."""
    return next((each for each in report.adapters if each.deployment == deployment), None)


def name_of(pod: Manifest) -> str:
    """Name of a pod."""
    return str(pod["metadata"]["name"])


def is_ready(pod: Manifest) -> bool:
    """Whether a pod gets traffic."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def trouble(deployment: Manifest | None, pods: Sequence[Manifest], warnings: Sequence[Manifest]) -> str | None:
    """Why pods do not come up, from the Deployment, the pods and their Warning events; None: nothing is known to be wrong."""
    for condition in ((deployment or {}).get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"The pod cannot be created: {condition.get('message')}"
    found = obstacle([pod for pod in pods if not is_ready(pod)]) or newest_warning(warnings)
    return found.message if found else None
