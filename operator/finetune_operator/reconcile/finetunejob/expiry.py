"""ttlSecondsAfterFinished: the FineTuneJob goes, once all who name it in a jobRef have taken what it made."""

from finetune_api.reasons import Stage
from finetune_operator.cache import Manifest
from finetune_operator.plan import ref_of
from finetune_operator.reconcile.finetunejob.draft import Draft
from finetune_operator.reconcile.pool_members import member


def expire(draft: Draft) -> None:
    """Delete a job that has ended, in its time. Whoever takes what it made wakes it."""
    lifetime = draft.job.spec.ttl_seconds_after_finished
    if lifetime is None or draft.status.completion_time is None:
        return
    left = lifetime - draft.since(draft.status.completion_time)
    if left > 0:
        draft.later(left)
    elif not draft.create and not _is_awaited(draft):
        draft.delete.append(ref_of(draft.seen.body))


def _is_awaited(draft: Draft) -> bool:
    """Whether somebody is about to take what the job made, and knows nothing but its name yet."""
    if not draft.holds(Stage.COMPLETE) or draft.status.artifact is None:
        return False
    users = [each for each in draft.seen.users if "deletionTimestamp" not in each["metadata"]]
    return any(_will_serve(draft, each) if each["kind"] == "AdapterDeployment" else _waits(each) for each in users)


def _will_serve(draft: Draft, body: Manifest) -> bool:
    """Whether an AdapterDeployment takes this adapter, and its status does not have it yet."""
    found = member(body, draft.seen.body)
    known = found.status.adapter
    return (
        found.adapter is not None and found.adapter.job_uid == draft.uid and (not known or known.job_uid != draft.uid)
    )


def _waits(body: Manifest) -> bool:
    """Whether a FineTuneJob has not started yet, and may."""
    status = body.get("status") or {}
    accepted = [each["status"] for each in status.get("conditions") or [] if each["type"] == Stage.ACCEPTED]
    return accepted != ["False"] and "startTime" not in status and "completionTime" not in status
