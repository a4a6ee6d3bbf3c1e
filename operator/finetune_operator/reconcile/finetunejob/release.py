"""The provider's side of a delegated job at its end: what still runs there is cancelled before the job may go.

A finalizer keeps the FineTuneJob until a Job has cancelled at the provider, which has CANCEL_SECONDS for it, and not at all where its
namespace is being deleted; with the annotation finetune.dev/orphan: "true" nothing is cancelled. Jobs that run in this cluster have no finalizer.
"""

from finetune_api.reasons import Stage
from finetune_operator.cache import Manifest
from finetune_operator.manifests.delegate import CANCEL_SECONDS, cancel_config, cancel_job, cancel_name
from finetune_operator.plan import Event, Plan, Ref, ref_of
from finetune_operator.reconcile.finetunejob import attempts, records
from finetune_operator.reconcile.finetunejob.cause import has_failed, is_alive, is_over
from finetune_operator.reconcile.finetunejob.draft import Draft
from finetune_operator.reconcile.finetunejob.finalizer import finalizers, is_held
from finetune_operator.reconcile.finetunejob.start import frozen_config

ORPHAN = "finetune.dev/orphan"
LOOK_AGAIN_SECONDS = 5.0
OVERDUE_SECONDS = 60.0
"""A pod that is still there so long after its grace has ended is on a node that nobody hears of."""
CANCEL_FAILED = "ProviderCancelFailed"


def at_end(draft: Draft) -> None:
    """The job has ended or is being deleted: cancel at the provider what may run there, then let go."""
    if not is_held(draft.seen.body) or attempts.taken_up(draft, "Train"):
        return
    may_run = bool(records.of_stage(draft, "Train")) and not draft.holds(Stage.COMPLETE)
    if _is_orphan(draft.seen.body) or not may_run or _cancelled(draft):
        draft.apply.append(finalizers(draft.seen.body, []))


def unread(body: Manifest, fields: str) -> Plan:
    """One that is being deleted and cannot be read: nobody knows how to cancel, so it is said, and let go."""
    if not is_held(body):
        return Plan()
    name = ((body.get("status") or {}).get("provider") or {}).get("job")
    warning = Event(ref_of(body), "Warning", CANCEL_FAILED, _may_run(name, f"the object cannot be read ({fields})"))
    return Plan(apply=(finalizers(body, []),), events=() if _is_orphan(body) else (warning,))


def _is_orphan(body: Manifest) -> bool:
    return (body["metadata"].get("annotations") or {}).get(ORPHAN) == "true"


def _cancelled(draft: Draft) -> bool:
    """Whether the provider was told, or whoever was sent has had time enough, or nobody can be sent any more."""
    job = draft.seen.jobs.get(cancel_name(draft.name, draft.uid))
    if job is not None and _has_come_to_its_end(draft, job):
        return True
    if _namespace_is_going(draft):
        _warn(draft, f"namespace {draft.namespace} is being deleted and takes no pod that could cancel it")
        return True
    draft.later(LOOK_AGAIN_SECONDS)
    attempts.delete_jobs(draft)
    _send(draft, job)
    return False


def _has_come_to_its_end(draft: Draft, job: Manifest) -> bool:
    """Whether nothing more will come of the Job that cancels. One whose pod had no configuration has not had its time."""
    if is_over(job) and not has_failed(job):
        return True
    if draft.seen.cancel_config is None:
        return False
    if is_over(job):
        _warn(draft, "the Job that cancels it has failed")
        return True
    if draft.since(job["metadata"]["creationTimestamp"]) >= CANCEL_SECONDS:
        _warn(draft, f"nothing came of the Job that cancels it in {CANCEL_SECONDS} s")
        return True
    return False


def _namespace_is_going(draft: Draft) -> bool:
    """Asked only while the job itself is being deleted."""
    if "deletionTimestamp" not in draft.seen.body["metadata"]:
        return False
    namespace = draft.answer(Ref("v1", "Namespace", "", draft.namespace))
    return namespace is not None and "deletionTimestamp" in namespace["metadata"]


def _send(draft: Draft, job: Manifest | None) -> None:
    """The Job that cancels, and once it is there the ConfigMap it owns."""
    settings = draft.seen.settings
    if job is None and not any(_may_submit(draft, pod) for pod in draft.seen.pods):
        draft.create.append(cancel_job(frozen_config(draft), settings))
    if job is not None and draft.seen.cancel_config is None:
        if is_over(job):
            draft.delete.append(ref_of(job))  # the operator was away between the two; it is sent anew
        else:
            draft.create.append(cancel_config(frozen_config(draft), settings, job))


def _may_submit(draft: Draft, pod: Manifest) -> bool:
    """Whether a delegate still lives, and is not overdue."""
    until = pod["metadata"].get("deletionTimestamp")  # the grace is in it
    return is_alive(pod) and (until is None or draft.since(until) < OVERDUE_SECONDS)


def _warn(draft: Draft, why: str) -> None:
    name = draft.status.provider.job if draft.status.provider else None
    draft.warn(CANCEL_FAILED, _may_run(name, why))


def _may_run(name: str | None, why: str) -> str:
    return f"The provider's job {name or 'of this FineTuneJob'} may still run: {why}. Look there, and cancel it."
