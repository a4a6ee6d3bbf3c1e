"""Why pods do not start, in the words of whoever noticed: a kubelet, the scheduler, Warning events. Pure; of train and server pods.

Quota, Pod Security, images and room on the nodes are spoken of nowhere else.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from pydantic import ValidationError

from finetune_api.v1alpha1.finetunejob_status import JobError
from finetune_operator.cache import Manifest

PATIENCE_SECONDS = 20.0
"""Before this, a pod that has not started is nothing to talk about."""
PULL_DELAYED = "ImagePullBackOff"
"""The kubelet waits before it pulls again; it goes on saying so, as it goes on naming a failure, while it pulls."""
NOT_PULLED = {"InvalidImageName", "ErrImageNeverPull"}
"""There is nothing to try."""
PULL_FAILURES = {"ErrImagePull", "RegistryUnavailable", PULL_DELAYED, *NOT_PULLED}
QUIET = {"ContainerCreating", "PodInitializing"}


class Obstacle(NamedTuple):
    """What is in the way."""

    reason: str
    """In the word of whoever noticed, which may be none that a condition can have; empty where there is none."""
    message: str


def obstacle(pods: Sequence[Manifest]) -> Obstacle | None:
    """What pods say themselves: the first container that cannot run, or else the first pod that no node takes."""
    return next(filter(None, chain(map(_container, pods), map(_placement, pods))), None)


def newest_warning(events: Iterable[Manifest]) -> Obstacle | None:
    """What was last said about them."""
    event = max(events, key=_last_seen, default=None)
    if event is None:
        return None
    about = event["involvedObject"]
    return Obstacle(str(event.get("reason") or ""), f"{about['kind']} {about['name']}: {event.get('message')}")


def _container(pod: Manifest) -> Obstacle | None:
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
        if waiting.get("reason") in (None, *QUIET) and ended.get("exitCode", 0) == 0:
            continue
        said = _last_words(ended) or waiting.get("message") or waiting.get("reason")
        reason = waiting.get("reason") or ended.get("reason") or ""
        return Obstacle(reason, f"{_name(pod)}: container {container['name']} ({container['image']}): {said}")
    return None


def _placement(pod: Manifest) -> Obstacle | None:
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            said = condition.get("message") or "no node takes it"
            return Obstacle(condition.get("reason") or "Unschedulable", f"{_name(pod)}: cannot be scheduled: {said}")
    return None


def _last_words(ended: Manifest) -> str | None:
    """How a container ended: its own message, or its exit code."""
    if ended.get("exitCode", 0) == 0:
        return None
    try:
        error = JobError.model_validate_json(ended.get("message") or "")
    except ValidationError:
        why = "killed for using more memory than its limit" if ended.get("reason") == "OOMKilled" else "exited"
        return f"{why} with code {ended['exitCode']}"
    return f"{error.code}: {error.message}"


def _name(pod: Manifest) -> str:
    return f"Pod {pod['metadata']['name']}"


def _last_seen(event: Manifest) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
