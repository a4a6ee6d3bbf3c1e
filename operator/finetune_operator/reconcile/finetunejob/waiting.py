"""Why an attempt's pod has not started (:mod:`finetune_operator.reconcile.obstacles`), and when to ask again."""

from collections.abc import Sequence

from finetune_api.conditions import as_reason, find
from finetune_api.reasons import Reason
from finetune_api.v1alpha1.finetunejob_status import Attempt as Record
from finetune_operator.cache import Manifest
from finetune_operator.manifests.delegate import delegation
from finetune_operator.plan import ref_of
from finetune_operator.reconcile.finetunejob import records
from finetune_operator.reconcile.finetunejob.cause import Ending
from finetune_operator.reconcile.finetunejob.draft import Draft
from finetune_operator.reconcile.finetunejob.progress import ONGOING
from finetune_operator.reconcile.obstacles import (
    NOT_PULLED,
    PATIENCE_SECONDS,
    PULL_DELAYED,
    PULL_FAILURES,
    Obstacle,
    newest_warning,
    obstacle,
)

PULL_SECONDS = 120.0
"""A registry may hiccup; an image that still cannot be pulled so long after the first failure ends the attempt."""
NOT_STARTING = "NotStarting"
"""Where whoever keeps a pod from starting gives no reason that a condition can have."""
ABOUT_TO_START = "The pod is about to start."
LOOK_AGAIN_SECONDS = (5.0, 60.0)


def why_not_started(draft: Draft, job: Manifest, pods: Sequence[Manifest], age: float) -> tuple[str, str]:
    """Reason and sentence; reads the Warning events once the pod is late."""
    shortest, longest = LOOK_AGAIN_SECONDS
    draft.later(PATIENCE_SECONDS - age if age < PATIENCE_SECONDS else min(max(age / 4, shortest), longest))
    found = obstacle(pods)
    if found is None and age >= PATIENCE_SECONDS:
        found = _warned(draft, [job, *pods])
    if found is None:
        return "Starting", ABOUT_TO_START
    return as_reason(found.reason or NOT_STARTING, NOT_STARTING, found.message)


def pulled_in_vain(draft: Draft, record: Record, reason: str, message: str) -> Ending | None:
    """The end of an attempt whose image cannot be pulled; None: it can, or perhaps the next time.

    The time runs from the first failure, as pulling takes minutes, and ends with another one: in between the image may be on its way.
    """
    since = records.pulling_in_vain_since(draft, record, fails=reason in PULL_FAILURES)
    if since is None or draft.since(since) < PULL_SECONDS or not _has_just_failed(draft, record, reason):
        return None
    if _has_run(draft, record):
        return Ending(Reason.INFRASTRUCTURE, f"{message} This job has run that image before.")
    return Ending(Reason.IMAGE_PULL_FAILED, f"{message} Set an image the nodes can pull, or imagePullSecrets.")


def _has_just_failed(draft: Draft, record: Record, reason: str) -> bool:
    """Whether the last try to pull ended this moment: the kubelet had waited before it, and waits no more."""
    said = find(draft.conditions, ONGOING[record.stage][1])
    return reason in NOT_PULLED or (said is not None and said.reason == PULL_DELAYED != reason)


def _has_run(draft: Draft, record: Record) -> bool:
    """Whether the job has run an attempt's image already: then it is there, and the registry or a node is to blame."""
    is_delegates = record.stage == "Train" and delegation(draft.job.spec) is not None
    if record.stage != "Prepare" and not is_delegates:
        return True  # prepare had the same
    before = [each for each in records.of_stage(draft, record.stage) if each.number < record.number]
    return any(each.counts or each.outcome == Reason.INTERRUPTED for each in before)


def _warned(draft: Draft, objects: Sequence[Manifest]) -> Obstacle | None:
    refs = [ref_of(each)._replace(api_version="v1", kind="Event") for each in objects]
    return newest_warning([event for ref in refs for event in draft.answer(ref) or []])
