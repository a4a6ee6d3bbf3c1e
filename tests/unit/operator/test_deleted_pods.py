"""A pod that is deleted (kubectl delete pod) is gone before its Job's verdict: what it said is kept, and where the next attempt begins."""

from typing import Any

import pytest

from builders import World, a_job, a_report, an_error, attempt, condition
from finetune_api.reasons import Reason
from finetune_api.v1alpha1.finetunejob_status import Checkpoint
from finetune_operator.cache import Manifest

TRAIN = attempt("Train")
AT_STEP_12 = "stopped by SIGTERM at step 12 of 30; the next attempt goes on from there"
STEP_10 = " The next attempt goes on from step 10, the newest checkpoint that was reported, or from a later one."
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}


def training(**spec: Any) -> World:
    """A job whose training has reported the checkpoint of step 10."""
    world = World(a_job(**spec))
    world.training()
    stored = Checkpoint(step=10, uri="s3://models/c/step-000010", created_at="2026-11-23T12:00:00Z")
    world.say(a_report().model_copy(update={"checkpoints": [stored]}))
    world.settle()
    return world


def going(world: World, code: int, message: str, **status: Any) -> Manifest:
    """The train pod is being deleted, and its container has ended."""
    pod = world.run_pod(TRAIN, {"terminated": {"exitCode": code, "message": message, "reason": "Error"}}, "Failed")
    meta = {**pod["metadata"], "deletionTimestamp": "2026-11-23T12:00:00Z"}
    world.put({**pod, "metadata": meta, "status": {**pod["status"], **status}})
    return world.get("Pod", f"{TRAIN}-pod")


def gone(world: World) -> Manifest:
    """The Job controller lets the pod go, and gives its verdict; the attempt's record."""
    world.lose_pod(TRAIN)
    record: Manifest = world.settle()["attempts"][-1]
    return record


@pytest.mark.parametrize(
    ("code", "message", "outcome", "said"),
    [
        pytest.param(
            143, an_error("Train", Reason.INTERRUPTED, AT_STEP_12), "Interrupted", f"The pod was deleted: {AT_STEP_12}",
            id="it stored its step",
        ),
        pytest.param(
            137, "", "Interrupted", f"The pod was deleted: The container was killed (SIGKILL).{STEP_10}", id="it had no time"
        ),
        pytest.param(
            20, an_error("Train", Reason.NON_FINITE_LOSS, "step 3"), "NonFiniteLoss", "step 3", id="it had failed before"
        ),
    ],
)  # fmt: skip
def test_what_a_deleted_pod_said_is_its_attempts_end(code: int, message: str, outcome: str, said: str) -> None:
    world = training()
    going(world, code, message)
    status = world.settle()
    assert condition(status, "Running") == ("True", "Training"), "until the Job's verdict the attempt has not ended"
    assert "completionTime" not in status["attempts"][-1]
    record = gone(world)
    assert (record["outcome"], record["message"]) == (outcome, said)
    assert record["counts"] == (outcome == "NonFiniteLoss")


def test_a_pod_that_went_unseen_was_deleted_all_the_same() -> None:
    record = gone(training())
    assert record["outcome"] == "Infrastructure"
    assert record["message"] == f"The pod was deleted, and was gone before it was seen how it ended.{STEP_10}"


def test_a_pod_seen_together_with_the_verdict_was_deleted() -> None:
    world = training()
    going(world, 143, an_error("Train", Reason.INTERRUPTED, AT_STEP_12))
    world.end_job(TRAIN, "Failed")
    assert world.settle()["attempts"][-1]["message"] == f"The pod was deleted: {AT_STEP_12}"


def test_a_job_that_was_deleted_says_where_the_next_attempt_begins() -> None:
    world = training()
    world.remove("Job", TRAIN)
    assert world.settle()["attempts"][-1]["message"] == f"The Job was deleted while it ran.{STEP_10}"


def test_a_drained_pod_is_replaced_by_its_job_and_ends_no_attempt() -> None:
    world = training()
    going(world, 143, an_error("Train", Reason.INTERRUPTED, AT_STEP_12), conditions=[DISRUPTED])
    assert "outcome" not in world.settle()["attempts"][-1]


def test_the_words_of_a_pod_that_was_replaced_after_all_are_forgotten() -> None:
    world = training()
    going(world, 143, an_error("Train", Reason.INTERRUPTED, AT_STEP_12))
    assert world.settle()["attempts"][-1]["outcome"] == "Interrupted"
    world.cache.remove("Pod", world.get("Pod", f"{TRAIN}-pod"))
    world.run_pod(TRAIN)
    assert not {"outcome", "message"} & world.settle()["attempts"][-1].keys()


def test_preparing_goes_on_from_no_step() -> None:
    world = World(a_job())
    world.settle()
    world.run_pod(attempt("Prepare"))
    world.lose_pod(attempt("Prepare"))
    assert world.settle()["attempts"][-1]["message"].endswith("it was seen how it ended.")
