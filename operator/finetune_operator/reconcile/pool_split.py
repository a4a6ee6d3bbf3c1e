"""Traffic splits: what the gateways are told of them, and whether they do it. Pure.

Used by :mod:`finetune_operator.reconcile.pool` and :mod:`finetune_operator.reconcile.pool_readiness`.
"""

from collections.abc import Iterable, Mapping

from finetune_api.pods import MAX_SHARE_MESSAGE, DesiredShare
from finetune_api.v1alpha1.adapterdeployment import BASE_SHARE, OWN_SHARE, Share, ShareStatus
from finetune_operator.cache import Manifest
from finetune_operator.reconcile.pool_members import Member

IN_THE_POOL = frozenset({BASE_SHARE, OWN_SHARE})
"""No names of AdapterDeployments."""


def named(body: Manifest) -> set[str]:
    """AdapterDeployments that a split names."""
    split = ((body["spec"].get("traffic") or {}).get("split")) or []
    return {share["adapter"] for share in split if "adapter" in share} - IN_THE_POOL  # stored under an older CRD


def desired_split(member: Member, neighbours: Mapping[str, Member]) -> list[DesiredShare] | None:
    """A member's split for its gateways; ``neighbours`` are the AdapterDeployments of the namespace by name."""
    return [desired_share(member, share, neighbours.get(share.adapter)) for share in member.split] or None


def desired_share(member: Member, share: Share, other: Member | None) -> DesiredShare:
    """Where a share leads: into this pool, to the Service of another, or nowhere, with the reason."""
    told = DesiredShare(adapter=share.adapter, weight=share.weight)
    if share.adapter in IN_THE_POOL:
        return told
    name = f"AdapterDeployment {share.adapter}"
    if other is None:
        return told.model_copy(update={"message": f"{name} does not exist"})
    if other.pool_name is None or other.is_blocked:
        why = f": {other.finding.message}" if other.finding else ""
        return told.model_copy(update={"message": f"{name} is not served{why}"[:MAX_SHARE_MESSAGE]})
    if other.pool_name == member.pool_name:
        return told
    if not other.status.ready_replicas:
        return told.model_copy(update={"message": f"no pod of {name} answers"})
    return told.model_copy(update={"url": other.url, "model": other.model})


def split_status(member: Member, said: Iterable[list[ShareStatus] | None]) -> tuple[ShareStatus, ...]:
    """The split for the status, with what any pod says against a share."""
    against = {one.adapter: one.message for split in said for one in split or [] if one.message}
    asked = [(share.adapter, share.weight) for share in member.split]
    return tuple(ShareStatus(adapter=name, weight=weight, message=against.get(name)) for name, weight in asked)


def is_applied(member: Member, said: list[ShareStatus] | None) -> bool:
    """Whether a pod splits as the spec says."""
    asked = [(share.adapter, share.weight) for share in member.split]
    return asked == [(share.adapter, share.weight) for share in said or []]


def unanswered(said: list[ShareStatus] | None) -> str | None:
    """A sentence about shares that should get something and get nothing."""
    found = [f"{share.adapter} ({share.message})" for share in said or [] if share.weight and share.message]
    return f"sends nothing to {' and '.join(found)}" if found else None
