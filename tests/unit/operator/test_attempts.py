"""How an attempt ended, whether another one follows it, and that no two run at once."""

import pytest

from builders import (
    COLLECT,
    PREPARE,
    TRAIN,
    World,
    a_job,
    a_summary,
    an_error,
    attempt,
    condition,
    ended,
    exit_code,
    message,
)
from finetune_api.reasons import RETRYABLE, Reason

NOT_RETRYABLE = [
    reason
    for reason in Reason
    if reason in (Reason.CONFIG_INVALID, Reason.DATASET_NOT_FOUND, Reason.MODEL_NOT_FOUND, Reason.SECRET_NOT_FOUND,
                  Reason.ACCESS_DENIED, Reason.OUTPUT_NOT_WRITABLE, Reason.ARTIFACT_CORRUPT, Reason.NON_FINITE_LOSS)
]  # fmt: skip


@pytest.mark.parametrize("reason", NOT_RETRYABLE)
@pytest.mark.parametrize("summary", [True, False], ids=["with summary", "by exit code"])
def test_a_failure_that_no_retry_can_cure_ends_the_job_at_once(reason: Reason, summary: bool) -> None:
    world = World(a_job())
    world.training()
    status = ended(world, "Train", (exit_code(reason), an_error("Train", reason) if summary else "", "Error"))
    assert condition(status, "Failed") == ("True", reason)
    assert len(status["attempts"]) == 2


@pytest.mark.parametrize("reason", sorted(RETRYABLE))
def test_a_retryable_failure_is_tried_again_until_max_retries(reason: Reason) -> None:
    world = World(a_job(maxRetries=2))
    world.training()
    for number in (1, 2):
        status = ended(world, "Train", (exit_code(reason), an_error("Train", reason), "Error"), number)
        assert status["state"] == "Retrying", "it waits before the next attempt"
        world.wait(60)
        assert world.settle()["state"] == "Starting"
    status = ended(world, "Train", (exit_code(reason), an_error("Train", reason), "Error"), 3)
    assert condition(status, "Failed") == ("True", reason)
    assert "maxRetries 2 is used up" in status["error"]["message"]
    assert [a["outcome"] for a in status["attempts"] if a["stage"] == "Train"] == [reason] * 3


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        pytest.param((137, "", "OOMKilled"), "OutOfMemory", id="an OOM kill is named as such"),
        pytest.param((137, "", "Error"), "Interrupted", id="SIGKILL"),
        pytest.param((143, "", "Error"), "Interrupted", id="SIGTERM"),
        pytest.param((143, an_error("Train", Reason.INTERRUPTED), "Error"), "Interrupted", id="SIGTERM with summary"),
        pytest.param((99, "what", "Error"), "InternalError", id="an unknown code"),
        pytest.param((128, "no such file", "StartError"), "InternalError", id="the container cannot start"),
    ],
)
def test_causes_are_read_from_the_container(outcome: tuple[int, str, str], name: str) -> None:
    world = World(a_job())
    world.training()
    status = ended(world, "Train", outcome)
    assert status["attempts"][-1]["outcome"] == name
    assert status["attempts"][-1]["counts"] == (name != "Interrupted")


def test_out_of_memory_halves_the_micro_batch_and_says_so() -> None:
    world = World(a_job())
    world.training()
    for number, divisor in ((1, 2), (2, 4)):
        status = ended(world, "Train", (137, "", "OOMKilled"), number)
        assert "halves the micro-batch" in status["attempts"][-1]["message"]
        world.wait(60)
        status = world.settle()
        arguments = world.get("Job", attempt("Train", number + 1))["spec"]["template"]["spec"]["containers"][0]["args"]
        assert arguments == [
            "finetune_trainer",
            "train",
            "--attempt",
            str(number + 1),
            "--micro-batch-divisor",
            str(divisor),
        ]
        assert f"divided by {divisor}" in message(status, "Running")


@pytest.mark.parametrize(("rows", "said"), [(2, "halves the micro-batch"), (1, "one row cannot be halved")])
def test_an_attempt_that_ran_out_of_memory_says_what_the_next_one_does(rows: int, said: str) -> None:
    world = World(a_job(training={"microBatchSize": rows}))
    world.training()
    world.end_pod(TRAIN, 137, "", "OOMKilled")
    assert said in world.settle()["attempts"][-1]["message"]


@pytest.mark.parametrize("lose", ["pod", "job"])
def test_a_lost_pod_is_not_the_jobs_fault_but_bounded(lose: str) -> None:
    world = World(a_job(maxRetries=0))
    world.training()
    for number in range(1, 7):
        world.run_pod(attempt("Train", number))
        if lose == "pod":
            world.lose_pod(attempt("Train", number))
        else:
            world.remove("Job", attempt("Train", number))
            pod = world.cache.get("Pod", "team", f"{attempt('Train', number)}-pod")
            assert pod is not None
            world.cache.remove("Pod", pod)
        status = world.settle()
        assert status["attempts"][-1]["outcome"] == "Infrastructure"
        world.wait(200)
        status = world.settle()
    assert condition(status, "Failed") == ("True", "Infrastructure")
    assert "more than 5 times" in status["error"]["message"]


def test_no_new_attempt_while_an_old_pod_is_alive() -> None:
    world = World(a_job())
    world.training()
    world.remove("Job", TRAIN)  # its pod still runs, marked for deletion
    world.wait(300)
    status = world.settle()
    assert status["state"] == "Retrying"
    assert "Waits until pod" in status["message"]
    pod = world.get("Pod", f"{TRAIN}-pod")
    world.cache.remove("Pod", pod)
    world.wait(10)
    assert world.settle()["state"] == "Starting"


def test_an_attempt_created_and_not_written_down_is_taken_up() -> None:
    world = World(a_job())
    world.carry_out(world.plan())
    world.carry_out(world.plan(), calls=1)  # the Job is created, and the operator dies
    world.run_pod(PREPARE)
    status = world.settle()
    assert status["state"] == "Preparing"
    assert [(a["stage"], a["number"]) for a in status["attempts"]] == [("Prepare", 1)]
    assert world.log.count(f"create Job {PREPARE}") == 1


def test_an_attempt_that_was_never_written_down_leaves_its_pod_time_to_end() -> None:
    world = World(a_job())
    world.carry_out(world.plan())
    world.carry_out(world.plan(), calls=1)  # the Job is created, and the operator dies
    world.run_pod(PREPARE)
    world.remove("Job", PREPARE)  # its pod still runs, marked for deletion
    status = world.settle()
    assert "Waits until pod" in status["message"]
    world.cache.remove("Pod", world.get("Pod", f"{PREPARE}-pod"))
    world.settle()
    assert world.log.count(f"create Job {PREPARE}") == 2


def test_a_lost_summary_of_training_is_collected() -> None:
    world = World(a_job())
    world.training()
    world.cache.remove("Pod", world.get("Pod", f"{TRAIN}-pod"))
    world.end_job(TRAIN, "Complete")
    status = world.settle()
    assert f"create Job {COLLECT}" in world.log
    world.run_pod(COLLECT)
    assert world.settle()["state"] == "Collecting"
    world.end_pod(COLLECT, 0, a_summary("Collect"))
    status = world.settle()
    assert condition(status, "Complete") == ("True", "Complete")


def test_a_pod_seen_later_than_its_jobs_end_is_not_lost() -> None:
    world = World(a_job())
    world.settle()
    world.end_pod(PREPARE, 0, a_summary("Prepare"))
    pod = world.get("Pod", f"{PREPARE}-pod")
    world.cache.remove("Pod", pod)
    world.unseen.append(pod)
    assert condition(world.settle(), "Planned") == ("True", "Planned")


def test_an_image_that_says_nothing_is_not_asked_for_ever() -> None:
    world = World(a_job(maxRetries=1))
    world.settle()
    for number in (1, 2):
        status = ended(world, "Prepare", (0, "", ""), number)
        world.wait(60)
        status = world.settle()
    assert condition(status, "Failed") == ("True", "InternalError")
    assert "pod contract" in status["error"]["message"]
