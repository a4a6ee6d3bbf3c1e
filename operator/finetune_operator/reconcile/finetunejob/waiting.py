"""Why a pod has not started: quota, Pod Security, image, scheduling. Said nowhere else than in conditions and Warning events."""

from collections.abc import Sequence
from typing import Any

from finetune_api.conditions import as_reason
from finetune_operator.cache import Manifest
from finetune_operator.plan import Ref, ref_of
from finetune_operator.reconcile.finetunejob.draft import Draft

PATIENCE_SECONDS = 20.0
"""Before this, a pod that has not started is nothing to talk about."""
PULL_SECONDS = 120.0
"""A registry may hiccup; an image that cannot be pulled for so long ends the job."""
PULL_FAILURES = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
NOT_STARTING = "NotStarting"
"""Where whoever keeps a pod from starting gives no reason that a condition can have."""
ABOUT_TO_START = "The pod is about to start."
NORMAL = {"ContainerCreating", "PodInitializing"}
LOOK_AGAIN_SECONDS = (5.0, 60.0)


def why_not_started(draft: Draft, job: Manifest, pods: Sequence[Manifest], age: float) -> tuple[str, str]:
    """Reason and sentence; reads the Warning events once the pod is late."""
    shortest, longest = LOOK_AGAIN_SECONDS
    draft.later(PATIENCE_SECONDS - age if age < PATIENCE_SECONDS else min(max(age / 4, shortest), longest))
    found = _container_waiting(pods) or _unscheduled(pods)
    if found is None and age >= PATIENCE_SECONDS:
        found = _newest_warning(draft, [ref_of(job), *(ref_of(pod) for pod in pods)])
    if found is None:
        return "Starting", ABOUT_TO_START
    reason, message = found
    return as_reason(reason, NOT_STARTING, message)


def pulling_seconds(draft: Draft, pods: Sequence[Manifest]) -> float:
    """For how long a node has tried to pull; the time a pod waited for a node is no fault of its image."""
    conditions = [each for pod in pods for each in (pod.get("status") or {}).get("conditions") or []]
    placed = [each for each in conditions if each["type"] == "PodScheduled" and each["status"] == "True"]
    return max((draft.since(each["lastTransitionTime"]) for each in placed), default=0.0)


def _container_waiting(pods: Sequence[Manifest]) -> tuple[str, str] | None:
    for pod in pods:
        for status in (pod.get("status") or {}).get("containerStatuses") or []:
            waiting = status.get("state", {}).get("waiting") or {}
            reason = waiting.get("reason")
            if reason and reason not in NORMAL:
                return str(reason), f"Image {status['image']}: {waiting.get('message') or reason}"
    return None


def _unscheduled(pods: Sequence[Manifest]) -> tuple[str, str] | None:
    for pod in pods:
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return str(condition.get("reason") or "Unschedulable"), str(
                    condition.get("message") or "No node takes the pod."
                )
    return None


def _newest_warning(draft: Draft, refs: Sequence[Ref]) -> tuple[str, str] | None:
    found: list[Any] = []
    for ref in refs:
        found += draft.answer(ref._replace(api_version="v1", kind="Event")) or []
    newest = max(found, key=_last_seen, default=None)
    if newest is None:
        return None
    return str(newest.get("reason") or NOT_STARTING), f"{newest['involvedObject']['kind']}: {newest.get('message')}"


def _last_seen(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
