"""How an attempt ended: from its Job and pod to a reason, a sentence, and whether another attempt can help.

Read from containerStatuses and the termination message, never from logs. A pod that is deleted is gone before its Job's verdict;
what it said while it went is remembered in its attempt's record.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from finetune_api.pods import Summary
from finetune_api.reasons import RETRYABLE, Reason, reason_of
from finetune_operator.cache import Manifest, labels_of
from finetune_operator.manifests.training import CONTAINER

KILLED = 137
TERMINATED = 143
UNSEEN = ("Unknown", "ContainerStatusUnknown")
"""What containerd and the kubelet call the end of a container that was gone when they came back; with exit codes of their own."""
MESSAGE_LIMIT = 600
UNCOUNTED = (Reason.INTERRUPTED, Reason.INFRASTRUCTURE)
"""Ends that are no failure of the job."""
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
"""Of the pods of an Indexed Job."""


@dataclass(frozen=True)
class Ending:
    """The end of an attempt."""

    reason: Reason | None
    """None: the pod has done its work and exited 0."""
    message: str
    summary: Summary | None = None
    """What the pod wrote at its end, where that could be read."""

    @property
    def counts(self) -> bool:
        """Whether it is the job's own failure, counted against maxRetries."""
        return self.reason is not None and self.reason not in UNCOUNTED

    @property
    def can_retry(self) -> bool:
        """Whether another attempt can end differently."""
        return not self.counts or self.reason in RETRYABLE


def ending(job: Manifest, pods: Sequence[Manifest], heard: Ending | None = None) -> Ending | None:
    """How the attempt of this Job ended; None: it has not. ``heard`` is what a pod said that has been deleted since."""
    succeeded, failed = _condition(job, "Complete"), _condition(job, "Failed")
    if succeeded is None and failed is None:
        return None
    if succeeded is not None:
        return Ending(None, "Done.", _result(pods))
    found = _seen(pods, failed or {})
    return heard if heard is not None and found.reason in UNCOUNTED else found


def last_words(pods: Sequence[Manifest]) -> Ending | None:
    """How an attempt will have ended, where its pod is being deleted and has told; None where the Job will make another pod."""
    pod = _telling(pods)
    terminated = _terminated(pod)
    if pod is None or terminated is None or not terminated.get("exitCode"):
        return None
    return _of_pod(pod, terminated) if _is_deleted(pod) and not is_disrupted(pod) else None


def _is_deleted(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _seen(pods: Sequence[Manifest], failed: Manifest) -> Ending:
    """The end of a failed attempt as its pods show it."""
    pod = _telling(pods)
    terminated = _terminated(pod)
    if pod is None or terminated is None:
        return Ending(Reason.INFRASTRUCTURE, _lost(pod, failed))
    return _of_pod(pod, terminated)


def _of_pod(pod: Manifest, terminated: Manifest) -> Ending:
    """Its container's end, and why that came."""
    end = _of_container(terminated)
    if end.reason is Reason.INTERRUPTED and _is_deleted(pod):
        return replace(end, message=f"The pod was deleted: {end.message}")
    return end


def _of_container(terminated: Manifest) -> Ending:
    """The container ended by itself or was killed."""
    summary = _summary(terminated)
    code = int(terminated.get("exitCode", 1))
    if terminated.get("reason") == "OOMKilled":
        return Ending(Reason.OUT_OF_MEMORY, "The container was killed for using more memory than its limit.", summary)
    if summary is not None and summary.error is not None:
        return Ending(_known(summary.error.code), summary.error.message, summary)
    if terminated.get("reason") in UNSEEN:
        said = f"Its node was restarted, or lost the container: nobody saw it end ({terminated['reason']}, exit code {code})."
        return Ending(Reason.INFRASTRUCTURE, said, summary)
    if code == KILLED:
        return Ending(Reason.INTERRUPTED, "The container was killed (SIGKILL).", summary)
    if code == TERMINATED:
        return Ending(Reason.INTERRUPTED, "The container was told to stop (SIGTERM).", summary)
    said = str(terminated.get("message") or terminated.get("reason") or "it left no message")
    return Ending(reason_of(code), f"The container exited with code {code}: {said}"[:MESSAGE_LIMIT], summary)


def _lost(pod: Manifest | None, failed: Manifest) -> str:
    """The pod ended without its container saying how: evicted, node gone, deleted."""
    if pod is None:
        return "The pod was deleted, and was gone before it was seen how it ended."
    status: Manifest = pod.get("status") or {}
    said = status.get("message") or failed.get("message") or "nothing is known"
    why = status.get("reason") or failed.get("reason") or "Unknown"
    return f"The pod was lost without a word ({why}: {said})"[:MESSAGE_LIMIT]


def _known(code: str) -> Reason:
    return Reason(code) if code in Reason.__members__.values() else Reason.INTERNAL_ERROR


def _summary(terminated: Manifest | None) -> Summary | None:
    try:
        return Summary.model_validate_json((terminated or {}).get("message") or "")
    except ValidationError:
        return None


def _terminated(pod: Manifest | None) -> Manifest | None:
    """State of the ended trainer container."""
    for status in ((pod or {}).get("status") or {}).get("containerStatuses") or []:
        if status["name"] == CONTAINER:
            ended: Manifest | None = status.get("state", {}).get("terminated")
            return ended
    return None


def _result(pods: Sequence[Manifest]) -> Summary | None:
    """What a pod that has done its work says came out; of several nodes only the first one's does."""
    done = [pod for pod in pods if pod.get("status", {}).get("phase") == "Succeeded"]
    said = [_summary(_terminated(pod)) for pod in sorted(done or pods, key=_created, reverse=True)]
    return next((each for each in said if each and (each.trained or each.prepared)), next(iter(said), None))


def _telling(pods: Sequence[Manifest]) -> Manifest | None:
    """The pod whose end is the attempt's: the newest; of several nodes the one that ended first by a fault of its own, as the
    others were told to stop because of it."""
    if not any(INDEX_LABEL in labels_of(pod) for pod in pods):
        return max(pods, key=_created, default=None)
    ended = [(end, pod) for pod in pods if (end := _terminated(pod)) is not None and end.get("exitCode")]
    own = [(end, pod) for end, pod in ended if not _is_consequence(end)]
    lost = [pod for pod in pods if not is_alive(pod) and _terminated(pod) is None]
    if lost and not own:
        return lost[0]
    return min(own or ended, key=lambda each: str(each[0].get("finishedAt", "")), default=(None, None))[1]


def _is_consequence(terminated: Manifest) -> bool:
    """Whether a container was only told to stop, or killed since it did not."""
    summary = _summary(terminated)
    if summary is not None and summary.error is not None:
        return summary.error.code == Reason.INTERRUPTED
    return terminated.get("reason") != "OOMKilled" and terminated.get("exitCode") in (TERMINATED, KILLED)


def _created(pod: Manifest) -> Any:
    return pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]


def _condition(job: Manifest, kind: str) -> Manifest | None:
    conditions = (job.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), None)


def is_over(job: Manifest) -> bool:
    """Whether the Job controller has given its verdict."""
    return _condition(job, "Complete") is not None or _condition(job, "Failed") is not None


def has_failed(job: Manifest) -> bool:
    """Whether that verdict is a failure."""
    return _condition(job, "Failed") is not None


def has_ended_by_itself(pod: Manifest) -> bool:
    """Whether the pod's container has said how it ended."""
    return _terminated(pod) is not None


def is_alive(pod: Manifest) -> bool:
    """Whether a pod may still be writing."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def is_disrupted(pod: Manifest) -> bool:
    """Evicted, preempted, drained: the Job's podFailurePolicy lets such a pod be replaced."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "DisruptionTarget" and each["status"] == "True" for each in conditions)


def has_started(pod: Manifest) -> bool:
    """Whether the pod's trainer container runs or ran."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return any(
        "waiting" not in status.get("state", {"waiting": {}}) for status in statuses if status["name"] == CONTAINER
    )
