"""After the end: nothing runs on, an AdapterDeployment is created once, the job expires. And the ends that come from outside."""

from finetune_api import API_VERSION
from finetune_api.conditions import find
from finetune_api.reasons import Reason, Stage
from finetune_operator.cache import JOB_LABEL, JOB_UID_LABEL, Manifest, labels_of
from finetune_operator.reconcile.finetunejob import attempts, expiry, records, release
from finetune_operator.reconcile.finetunejob.checks import DEPLOY, first_finding
from finetune_operator.reconcile.finetunejob.draft import Draft

CREATED = "Created"
READING_SECONDS = 300.0
"""What was trained counts: where its result must be read from the manifest, there is so much time, even beyond the deadline."""


def finished(draft: Draft) -> bool:
    """Complete or Failed already. Returns whether the job stands here."""
    if not draft.holds(Stage.FINISHED):
        return False
    attempts.delete_jobs(draft)
    if draft.holds(Stage.COMPLETE) and draft.status.artifact is not None:  # a dry run has none
        deploy(draft)
    release.at_end(draft)
    expiry.expire(draft)
    return True


def cancelled(draft: Draft) -> bool:
    """spec.cancel ends the job. Returns whether the job stands here.

    Unlike a deadline or a suspension also where training has just ended: whoever cancels wants nothing of it deployed.
    """
    if not draft.job.spec.cancel:
        return False
    _end(draft, Reason.CANCELLED, "Cancelled by spec.cancel; checkpoints are kept.")
    return True


def past_deadline(draft: Draft) -> bool:
    """activeDeadlineSeconds after startTime the job ends. Returns whether the job stands here."""
    limit = draft.job.spec.active_deadline_seconds
    if limit is None or draft.status.start_time is None:
        return False
    left, trained_at = limit - draft.since(draft.status.start_time), records.succeeded_at(draft, "Train")
    if trained_at is not None:
        left = max(left, READING_SECONDS - draft.since(trained_at))
    if left > 0:
        draft.later(left)
        return False
    record = records.open_one(draft)
    if record is not None and record.stage != "Prepare" and attempts.has_ended(draft, record):
        return False  # perhaps in time, while the operator was down; a failure is followed by the deadline, not by an attempt
    late = f"{limit} s after its start (activeDeadlineSeconds)"
    message = f"Not finished {late}; checkpoints are kept."
    if trained_at is not None:
        message = (
            f"Trained, but not finished {late}: the result is in {draft.folder}, and could not be read from there."
        )
    _end(draft, Reason.DEADLINE_EXCEEDED, message)
    return True


def _end(draft: Draft, reason: Reason, message: str) -> None:
    if attempts.taken_up(draft, "Train"):
        return  # ended in the next round: what may run at a provider must be known even after a crash in between
    attempts.stop(draft, reason, message)
    draft.fail(reason, message)


def deploy(draft: Draft) -> None:
    """Create the AdapterDeployment of spec.deploy, once; one that is not ours is left alone."""
    wanted = draft.job.spec.deploy
    if wanted is None:
        if draft.holds(Stage.DEPLOY_CONFLICT):
            draft.condition(Stage.DEPLOY_CONFLICT, "False", "NotAsked", "spec.deploy has been taken out.")
        return
    created = f"AdapterDeployment {wanted.name} was created."
    known = find(draft.conditions, Stage.DEPLOY_CONFLICT)
    if known is not None and (known.reason, known.message) == (CREATED, created):
        return  # deleted since, perhaps: that is its owner's right
    finding = first_finding(DEPLOY, draft.job.spec)
    if finding is not None:
        draft.condition(Stage.DEPLOY_CONFLICT, "True", finding.reason, finding.message)
        return
    existing = draft.seen.deployment
    if existing is not None and labels_of(existing).get(JOB_UID_LABEL) != draft.uid:
        message = (
            f"AdapterDeployment {wanted.name} exists and is not this job's; delete it, or choose another deploy.name."
        )
        draft.condition(Stage.DEPLOY_CONFLICT, "True", "AlreadyExists", message)
        return
    if existing is None:
        draft.create.append(adapter_deployment(draft))
    draft.condition(Stage.DEPLOY_CONFLICT, "False", CREATED, created)


def adapter_deployment(draft: Draft) -> Manifest:
    """Serves this job's adapter. No owner reference: deleting the job must not stop serving."""
    wanted = draft.job.spec.deploy
    assert wanted is not None
    template = wanted.template.wire() if wanted.template else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "AdapterDeployment",
        "metadata": {
            "name": wanted.name,
            "namespace": draft.namespace,
            "labels": {JOB_LABEL: draft.name, JOB_UID_LABEL: draft.uid},
        },
        "spec": {**template, "adapter": {"jobRef": {"name": draft.name}}},
    }
