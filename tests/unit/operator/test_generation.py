"""A status is about the newest generation: kubectl wait --for=condition=… ends only on a condition that is."""

from typing import Any

import pytest

from builders import TRAIN, World, a_job, a_summary, condition


@pytest.mark.parametrize("gate_passed", [True, False], ids=["complete", "failed"])
@pytest.mark.parametrize("edit", [{"ttlSecondsAfterFinished": 600}, {"suspend": True}], ids=lambda edit: str(*edit))
def test_an_edit_of_a_job_that_has_ended_is_observed_by_every_condition(
    gate_passed: bool, edit: dict[str, Any]
) -> None:
    world = World(a_job())
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train", gate_passed=gate_passed))
    before = world.settle()
    events = list(world.events)
    world.patch_spec(**edit)
    after = world.settle()
    assert {each["type"]: each["observedGeneration"] for each in after["conditions"]} == {
        each["type"]: 2 for each in before["conditions"]
    }
    assert condition(after, "Finished") == condition(before, "Finished")
    assert [each["lastTransitionTime"] for each in after["conditions"]] == [
        each["lastTransitionTime"] for each in before["conditions"]
    ]
    assert world.events == events, "nothing has happened"


def test_an_edit_of_a_running_job_is_observed_by_what_is_done_already() -> None:
    world = World(a_job())
    world.training()
    world.patch_spec(activeDeadlineSeconds=86_400)
    assert {each["observedGeneration"] for each in world.settle()["conditions"]} == {2}
