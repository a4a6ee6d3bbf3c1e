"""A verdict as status and Events: the kstatus conditions Ready, Reconciling and Stalled, and the columns. Pure."""

from datetime import UTC, datetime

from finetune_api.conditions import Condition, find, upsert
from finetune_api.model import MAX_SENTENCE
from finetune_api.reasons import ServingReason
from finetune_api.v1alpha1.adapterdeployment import AdapterDeploymentStatus
from finetune_operator.plan import Event, StatusWrite, ref_of
from finetune_operator.reconcile.finding import Finding
from finetune_operator.reconcile.pool_members import Member
from finetune_operator.reconcile.pool_readiness import Verdict

STALLED = frozenset(
    {
        ServingReason.UNSUPPORTED,
        ServingReason.NOT_ALLOWED,
        ServingReason.GATE_FAILED,
        ServingReason.NAME_TAKEN,
        ServingReason.DIGEST_MISMATCH,
        ServingReason.BASE_MODEL_MISMATCH,
        ServingReason.RANK_TOO_HIGH,
        ServingReason.ADAPTER_INVALID,
    }
)
"""Nothing will happen until the user acts."""
PROGRESS = frozenset({ServingReason.STARTING, ServingReason.LOADING, ServingReason.WAITING_FOR_JOB})
"""On the way: worth a condition, not a Warning."""


def write(member: Member, verdict: Verdict, now: datetime) -> tuple[StatusWrite, list[Event]]:
    """The status an AdapterDeployment shall have, and the Event of a Ready that changed."""
    before = member.status.conditions or []
    as_before = stays(member, verdict)
    conditions = before if as_before else judged(before, member, verdict, now)
    ready = find(conditions, "Ready")
    assert ready is not None
    status = AdapterDeploymentStatus(
        observed_generation=generation(member),
        conditions=conditions,
        state="Ready" if ready.status == "True" else ready.reason,
        message=ready.message,
        model=member.model,
        url=member.url if member.pool and not member.is_blocked else None,
        pool=member.pool.name if member.pool else None,
        adapter=member.adapter or member.status.adapter,
        replicas=len(verdict.pods),
        ready_replicas=member.status.ready_replicas if as_before else verdict.ready_replicas,
        pods=list(verdict.pods),
        split=list(verdict.split) or None,
    )
    return StatusWrite(ref_of(member.body), status.wire()), events(member, find(before, "Ready"), ready)


def leave(member: Member, now: datetime) -> tuple[StatusWrite, list[Event]]:
    """Only why it cannot be carried out, over a status that says what is served, and that this version may not read."""
    status = member.body.get("status") or {}
    before = [Condition.model_validate(each) for each in status.get("conditions") or []]
    finding = member.finding
    if finding is not None and member.pool_name is not None:
        finding = finding._replace(message=f"{finding.message} What served before still serves.")
    conditions = judged(before, member, Verdict(finding), now)
    ready = find(conditions, "Ready")
    assert ready is not None
    said = AdapterDeploymentStatus(
        observed_generation=generation(member), conditions=conditions, state=ready.reason, message=ready.message
    )
    write = StatusWrite(ref_of(member.body), {**status, **said.wire()})
    return write, events(member, find(before, "Ready"), ready)


def stays(member: Member, verdict: Verdict) -> bool:
    """Whether what was said before an operator's restart still counts: about this spec, and about this adapter."""
    before, adapter = find(member.status.conditions or [], "Ready"), member.status.adapter
    if verdict.is_known or before is None or before.observed_generation != generation(member):
        return False
    return adapter is not None and member.adapter is not None and adapter.digest == member.adapter.digest


def judged(conditions: list[Condition], member: Member, verdict: Verdict, now: datetime) -> list[Condition]:
    """With Ready, Reconciling and Stalled, as kstatus wants them: at most one of them is True."""
    finding = verdict.finding
    if not verdict.is_known:
        finding = Finding(ServingReason.LOADING, "The server pods have not reported yet.")
    is_stalled = finding is not None and finding.reason in STALLED
    reason = finding.reason if finding else ServingReason.SERVING
    message = finding.message[:MAX_SENTENCE] if finding else serving_message(verdict)
    for type_, holds in (
        ("Ready", finding is None),
        ("Reconciling", finding is not None and not is_stalled),
        ("Stalled", is_stalled),
    ):
        condition = Condition(
            type=type_,
            status="True" if holds else "False",
            reason=reason,
            message=message,
            last_transition_time=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            observed_generation=generation(member),
        )
        conditions = upsert(conditions, condition)
    return conditions


def serving_message(verdict: Verdict) -> str:
    """How many answer."""
    pods = "1 pod answers" if verdict.ready_replicas == 1 else f"{verdict.ready_replicas} pods answer"
    return f"{pods} with this adapter."


def generation(member: Member) -> int:
    """metadata.generation."""
    return int(member.body["metadata"].get("generation", 0))


def events(member: Member, before: Condition | None, ready: Condition) -> list[Event]:
    """One when Ready has changed its status or its reason."""
    if before is not None and (before.status, before.reason) == (ready.status, ready.reason):
        return []
    is_fine = ready.status == "True" or ready.reason in PROGRESS
    return [Event(ref_of(member.body), "Normal" if is_fine else "Warning", ready.reason, ready.message)]
