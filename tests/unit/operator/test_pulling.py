"""An image that cannot be pulled: it ends a job that never ran it, and no job for a registry's hiccup."""

from typing import Any

import pytest

from builders import PREPARE, TRAIN, World, a_job, a_summary, attempt, condition, exit_code
from finetune_api.reasons import Reason
from finetune_operator.reconcile.finetunejob.draft import timestamp

PULLING = "ContainerCreating"
RETRIES = [(12, "ErrImagePull"), (15, "ImagePullBackOff"), (10, "ErrImagePull"), (15, "ImagePullBackOff")]
"""What a kubelet says, and after how many seconds, between a first failure and one that counts."""


def place(world: World, job: str, reason: str) -> None:
    """A node has taken the Job's pod, and its container waits."""
    known = world.cache.get("Pod", "team", f"{job}-pod")
    placed = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(world.now)}]
    conditions = known["status"]["conditions"] if known else placed
    pod = world.run_pod(job, {"waiting": {"reason": reason, "message": "back-off " * 150}}, "Pending")
    world.put({**pod, "status": {**pod["status"], "conditions": conditions}})


def pull(world: World, job: str, *said: tuple[float, str]) -> dict[str, Any]:
    """What the kubelet says one after the other, each after some seconds; the job's status at the end."""
    for seconds, reason in said:
        world.wait(seconds)
        place(world, job, reason)
        status = world.settle()
    return status


def test_an_image_that_cannot_be_pulled_ends_the_job_after_a_while() -> None:
    world = World(a_job())
    world.settle()
    status = pull(world, PREPARE, (1, PULLING), (1, "ErrImagePull"))
    assert condition(status, "DataValidated") == ("Unknown", "ErrImagePull")
    assert status["attempts"][-1]["pullFailedAt"] == timestamp(world.now)
    status = pull(world, PREPARE, *RETRIES, (80, "ImagePullBackOff"))
    assert condition(status, "Failed") is None, "the next try may do"
    status = pull(world, PREPARE, (1, "ErrImagePull"))
    assert condition(status, "Failed") == ("True", "ImagePullFailed")
    assert f"delete Job {PREPARE}" in world.log
    assert len(status["attempts"][-1]["message"]) == 1024


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_is_not_even_tried_to_be_pulled_ends_the_job_too(reason: str) -> None:
    world = World(a_job())
    world.settle()
    assert condition(pull(world, PREPARE, (0, reason), (119, reason)), "Failed") is None
    assert condition(pull(world, PREPARE, (1, reason)), "Failed") == ("True", "ImagePullFailed")


def test_neither_a_queue_for_a_node_nor_a_long_pull_is_a_failure_of_the_image() -> None:
    world = World(a_job())
    world.settle()
    world.wait(3600)
    status = pull(world, PREPARE, (0, PULLING), (300, "ErrImagePull"), (1, "ImagePullBackOff"))
    assert condition(status, "Failed") is None
    assert condition(pull(world, PREPARE, (10, "ErrImagePull"), (300, "ErrImagePull")), "Failed") is None, (
        "the kubelet names the last failure while it pulls again, for as long as that takes"
    )
    world.run_pod(PREPARE)
    assert "pullFailedAt" not in world.settle()["attempts"][-1]


def test_an_image_that_the_job_has_run_is_there_and_another_pod_is_tried() -> None:
    world = World(a_job())
    world.prepared()
    status = pull(world, TRAIN, (0, "ErrImagePull"), *RETRIES, (80, "ErrImagePull"))
    assert condition(status, "Failed") is None
    record = status["attempts"][-1]
    assert (record["outcome"], record["counts"]) == ("Infrastructure", False)
    assert f"delete Job {TRAIN}" in world.log
    for number in range(2, 7):
        world.wait(130)
        world.settle()
        status = pull(world, attempt("Train", number), (0, "ErrImagePull"), *RETRIES, (80, "ErrImagePull"))
    assert condition(status, "Failed") == ("True", "Infrastructure")


@pytest.mark.parametrize(
    ("first", "end"), [("Interrupted", None), ("StorageUnavailable", None), (None, "ImagePullFailed")]
)
def test_the_delegates_image_is_not_the_one_that_prepared(first: str | None, end: str | None) -> None:
    backend = {"openai": {"secretRef": {"name": "key"}}}
    world = World(a_job(baseModel={"uri": "openai://gpt"}, backend=backend))
    world.settle()
    world.end_pod(PREPARE, 0, a_summary("Prepare"))
    world.settle()
    if first is not None:
        world.end_pod(TRAIN, exit_code(Reason(first)))
        world.settle()
        world.wait(10)
        world.settle()
    job = attempt("Train", 2 if first else 1)
    status = pull(world, job, (0, "ErrImagePull"), *RETRIES, (80, "ErrImagePull"))
    assert condition(status, "Failed") == (("True", end) if end else None)
