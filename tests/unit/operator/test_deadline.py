"""activeDeadlineSeconds and a training that is done, but whose result must be read from the manifest: what was trained counts,
and still the job ends."""

import pytest

from builders import World, a_job, a_summary, an_error, attempt, condition, exit_code
from finetune_api.reasons import Reason

TRAIN, COLLECT = attempt("Train"), attempt("Collect")
LATE = ("True", "DeadlineExceeded")


def collecting(ended_at: float) -> World:
    """A job of at most 1,000 s whose training has ended, and whose train pod took its last words along."""
    world = World(a_job(activeDeadlineSeconds=1000))
    world.training()
    world.wait(ended_at)
    world.cache.remove("Pod", world.get("Pod", f"{TRAIN}-pod"))
    world.end_job(TRAIN, "Complete")
    world.settle()
    assert f"create Job {COLLECT}" in world.log
    return world


@pytest.mark.parametrize(
    ("ended_at", "until"),
    [
        pytest.param(10, 1000, id="long before the deadline, until then"),
        pytest.param(990, 1290, id="just before it, for five minutes from then on"),
        pytest.param(5000, 5300, id="seen long after it, too"),
    ],
)
def test_a_result_that_cannot_be_read_ends_the_job(ended_at: float, until: float) -> None:
    world = collecting(ended_at)
    world.run_pod(COLLECT)
    assert world.settle()["state"] == "Collecting"
    left = until - ended_at
    assert world.plan().requeue_after == pytest.approx(left)
    world.wait(left - 1)
    assert condition(world.settle(), "Finished") is None
    world.wait(1)
    status = world.settle()
    assert condition(status, "Failed") == LATE
    assert status["attempts"][-1]["outcome"] == "DeadlineExceeded"
    assert f"delete Job {COLLECT}" in world.log
    folder = "s3://models/team/bot/bot000-uid"
    assert (
        f"Trained, but not finished 1000 s after its start (activeDeadlineSeconds): the result is in {folder}"
        in (status["error"]["message"])
    )


def test_a_result_that_was_read_in_time_counts_though_it_is_seen_later() -> None:
    world = collecting(10)
    world.end_pod(COLLECT, 0, a_summary("Collect"))
    world.wait(5000)
    assert condition(world.settle(), "Complete") == ("True", "Complete")


def test_a_reading_that_failed_is_not_tried_again_after_the_deadline() -> None:
    world = collecting(10)
    reason = Reason.STORAGE_UNAVAILABLE
    world.end_pod(COLLECT, exit_code(reason), an_error("Collect", reason))
    world.wait(5000)
    status = world.settle()
    assert condition(status, "Failed") == LATE
    assert status["attempts"][-1]["outcome"] == reason
    assert f"create Job {attempt('Collect', 2)}" not in world.log


def test_a_reading_that_fails_for_good_says_where_the_result_is() -> None:
    world = collecting(10)
    world.end_pod(COLLECT, exit_code(Reason.ACCESS_DENIED), an_error("Collect", Reason.ACCESS_DENIED, "no such key"))
    status = world.settle()
    assert condition(status, "Failed") == ("True", "AccessDenied")
    folder = "s3://models/team/bot/bot000-uid"
    assert status["error"]["message"] == f"Trained, but the result in {folder} could not be read: no such key"
