"""What a running pod reports, and what of it the user reads when."""

import pytest

from builders import World, a_job, a_report


def test_progress_is_shown_and_throttled() -> None:
    world = World(a_job())
    world.training()
    world.say(a_report(10, 2.0))
    status = world.settle()
    assert (status["progress"], status["loss"], status["eta"]) == ("10%", "2.000", "12m")
    world.wait(2)
    world.say(a_report(11, 1.9))
    plan = world.plan()
    assert plan.requeue_after == pytest.approx(3)
    assert not world.carry_out(plan), "not written yet"
    world.wait(3)
    assert world.settle()["progress"] == "11%"
    world.wait(5)
    world.say(a_report(100, 1.0, eta=0))
    assert world.settle()["state"] == "Evaluating"


def test_what_a_trainer_warns_of_is_shown_until_it_is_over_and_told_once() -> None:
    world = World(a_job())
    world.training()
    warning = "The checkpoint of step 4 is not there yet."
    world.say(a_report(10, warning=warning))
    (event,) = world.plan().events
    assert (event.type, event.reason, event.message) == ("Warning", "TrainingWarning", warning)
    assert warning in world.settle()["message"]
    world.wait(5)
    world.say(a_report(11, warning=warning))
    assert not world.plan().events
    world.settle()
    world.wait(5)
    world.say(a_report(12))
    assert warning not in world.settle()["message"]


def test_a_report_from_before_the_attempt_is_ignored() -> None:
    world = World(a_job())
    world.settle()
    world.say(a_report(99))
    world.wait(10)
    assert "progress" not in world.training()
