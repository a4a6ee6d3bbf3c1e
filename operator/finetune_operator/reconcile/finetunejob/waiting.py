"""Why an attempt's pod has not started (:mod:`finetune_operator.reconcile.obstacles`), and when to ask again."""

from collections.abc import Sequence

from finetune_api.conditions import as_reason
from finetune_operator.cache import Manifest
from finetune_operator.plan import ref_of
from finetune_operator.reconcile.finetunejob.draft import Draft
from finetune_operator.reconcile.obstacles import PATIENCE_SECONDS, Obstacle, newest_warning, obstacle

PULL_SECONDS = 120.0
"""A registry may hiccup; an image that cannot be pulled for so long ends the job."""
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


def pulling_seconds(draft: Draft, pods: Sequence[Manifest]) -> float:
    """For how long a node has tried to pull; the time a pod waited for a node is no fault of its image."""
    conditions = [each for pod in pods for each in (pod.get("status") or {}).get("conditions") or []]
    placed = [each for each in conditions if each["type"] == "PodScheduled" and each["status"] == "True"]
    return max((draft.since(each["lastTransitionTime"]) for each in placed), default=0.0)


def _warned(draft: Draft, objects: Sequence[Manifest]) -> Obstacle | None:
    refs = [ref_of(each)._replace(api_version="v1", kind="Event") for each in objects]
    return newest_warning([event for ref in refs for event in draft.answer(ref) or []])
