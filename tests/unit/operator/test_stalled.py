"""Stalled says what is in the way now: a passing failure of the operator does not stay in the status of a job that has ended."""

import pytest

from builders import TRAIN, World, a_job, a_summary, condition, message
from finetune_operator.act import failed_status


@pytest.mark.parametrize(
    ("gate_passed", "stalled"),
    [
        pytest.param(True, ("False", "GoesOn"), id="of one that is complete"),
        pytest.param(False, ("True", "GateFailed"), id="of one that has failed"),
    ],
)
def test_a_failure_of_the_operator_goes_with_its_cause(gate_passed: bool, stalled: tuple[str, str]) -> None:
    world = World(a_job())
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train", gate_passed=gate_passed))
    before = world.settle()
    body = world.get("FineTuneJob", "bot")
    world.put({**body, "status": failed_status(body, RuntimeError("no webhook answers"), world.now)})
    assert condition(world.get("FineTuneJob", "bot")["status"], "Stalled") == ("True", "ReconcileError")
    after = world.settle()
    assert condition(after, "Stalled") == stalled
    if not gate_passed:
        assert message(after, "Stalled") == message(before, "Stalled")
