"""Why nothing runs yet: a pod that does not start, a provider that lets the job wait; whatever word they have for it."""

from typing import Any

import pytest

from builders import TRAIN, World, a_job, condition, message
from finetune_api.pods import Report
from finetune_api.v1alpha1.finetunejob_status import TrainerStatus
from finetune_api.v1alpha1.provider import ProviderStatus


def waiting(reason: str) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": "back-off " * 150}}


def test_warnings_of_job_and_pod_are_read_after_20_s() -> None:
    world = World(a_job())
    world.prepared()
    uid = world.get("Job", TRAIN)["metadata"]["uid"]
    warning = {
        "reason": "FailedCreate",
        "message": "exceeded quota",
        "involvedObject": {"kind": "Job", "name": TRAIN},
        "metadata": {},
    }
    world.on_demand["Event", uid] = [warning]
    assert "exceeded quota" not in message(world.settle(), "Running")
    world.wait(21)
    status = world.settle()
    assert condition(status, "Running") == ("False", "FailedCreate")
    assert message(status, "Running") == f"Job {TRAIN}: exceeded quota"
    assert status["state"] == "Starting"


UNHEARD_OF = "No nodes! (0/3)"
"""Nothing a condition can have as its reason."""


def unscheduled(reason: str) -> dict[str, Any]:
    message = "0/3 nodes are available"
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        pytest.param({"containerStatuses": [
            {"name": "trainer", "image": "trainer", "state": waiting(UNHEARD_OF)},
        ]}, "container trainer (trainer): back-off", id="a container runtime's"),
        pytest.param({"initContainerStatuses": [
            {"name": "proxy", "image": "mesh:1", "state": waiting(UNHEARD_OF)},
        ]}, "container proxy (mesh:1): back-off", id="of a container that a mesh has put before ours"),
        pytest.param(unscheduled(UNHEARD_OF), "cannot be scheduled: 0/3 nodes are available", id="a scheduler's"),
    ],
)  # fmt: skip
def test_a_word_that_can_be_no_reason_is_said_in_the_sentence(state: dict[str, Any], says: str) -> None:
    world = World(a_job())
    world.prepared()
    pod = world.run_pod(TRAIN)
    world.put({**pod, "status": {"phase": "Pending", **state}})
    status = world.settle()
    assert condition(status, "Running") == ("False", "NotStarting")
    assert message(status, "Running").startswith(f"{UNHEARD_OF}: Pod {TRAIN}-pod: {says}")


@pytest.mark.parametrize("reason", [{"reason": UNHEARD_OF}, {}], ids=["no word for a reason", "none at all"])
def test_an_events_reason_need_be_none_of_ours(reason: dict[str, str]) -> None:
    world = World(a_job())
    world.prepared()
    warning = {**reason, "message": "denied", "involvedObject": {"kind": "Job", "name": TRAIN}, "metadata": {}}
    world.on_demand["Event", world.get("Job", TRAIN)["metadata"]["uid"]] = [warning]
    world.wait(21)
    status = world.settle()
    assert condition(status, "Running") == ("False", "NotStarting")
    assert message(status, "Running").endswith(f"Job {TRAIN}: denied")


def test_a_providers_state_need_be_none_of_ours() -> None:
    world = World(a_job())
    world.training()
    world.say(Report(trainer_status=TrainerStatus(), provider=ProviderStatus(job="j", state=UNHEARD_OF)))
    status = world.settle()
    assert condition(status, "Running") == ("True", "AtProvider")
    assert message(status, "Running") == f"{UNHEARD_OF}: The provider's job j is {UNHEARD_OF}."
    assert "Normal AtProvider" in world.events
