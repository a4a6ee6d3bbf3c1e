"""What stops a FineTuneJob from outside (suspend, cancel, deadline), and what follows its end (deploy)."""

from typing import Any

import pytest

from builders import COLLECT, TRAIN, World, a_job, a_report, a_summary, attempt, condition, ended, message


def test_suspending_stops_the_pod_and_resuming_goes_on() -> None:
    world = World(a_job())
    world.training()
    world.patch_spec(suspend=True)
    status = world.settle()
    assert condition(status, "Suspended") == ("True", "Suspended")
    assert f"delete Job {TRAIN}" in world.log
    assert "is committing a checkpoint" in status["message"]
    world.cache.remove("Pod", world.get("Pod", f"{TRAIN}-pod"))
    status = world.settle()
    assert status["state"] == "Suspended"
    assert "is committing" not in status["message"]
    world.patch_spec(suspend=False)
    status = world.settle()
    assert condition(status, "Suspended") == ("False", "Resumed")
    assert world.log[-2:] == [f"create Job {attempt('Train', 2)}", "status FineTuneJob bot"]
    world.run_pod(attempt("Train", 2))
    world.say(a_report(50, 1.0, step=12))
    status = world.settle()
    assert status["resumedFromStep"] == 12
    assert "resumed from step 12" in message(status, "Running")


def test_a_job_created_suspended_is_prepared_and_not_trained() -> None:
    world = World(a_job(suspend=True))
    status = world.prepared()
    assert condition(status, "Planned") == ("True", "Planned")
    assert condition(status, "Suspended") == ("True", "Suspended")
    assert not [line for line in world.log if "train" in line]


def test_a_pod_that_finished_while_being_suspended_counts() -> None:
    world = World(a_job())
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train"))
    world.patch_spec(suspend=True)
    assert condition(world.settle(), "Complete") == ("True", "Complete")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"cancel": True}, "Cancelled", id="cancelled"),
        pytest.param({"activeDeadlineSeconds": 60}, "DeadlineExceeded", id="too late"),
    ],
)
def test_an_end_from_outside_stops_the_pods(spec: Any, reason: str) -> None:
    world = World(a_job())
    world.training()
    world.patch_spec(**spec)
    world.wait(61)
    status = world.settle()
    assert condition(status, "Failed") == ("True", reason)
    assert status["attempts"][-1]["outcome"] == reason
    assert f"delete Job {TRAIN}" in world.log


@pytest.mark.parametrize("lost", [False, True], ids=["with its summary", "with its summary lost"])
def test_what_was_trained_before_the_deadline_counts_though_it_is_seen_later(lost: bool) -> None:
    world = World(a_job(activeDeadlineSeconds=60))
    world.training()
    world.end_pod(TRAIN, 0, "" if lost else a_summary("Train"))
    world.wait(61)
    status = world.settle()
    if lost:
        world.end_pod(COLLECT, 0, a_summary("Collect"))
        status = world.settle()
    assert condition(status, "Complete") == ("True", "Complete")


def test_a_failure_seen_after_the_deadline_is_not_followed_by_another_attempt() -> None:
    world = World(a_job(activeDeadlineSeconds=60))
    world.training()
    world.end_pod(TRAIN, 137, "", "OOMKilled")
    world.wait(61)
    status = world.settle()
    assert condition(status, "Failed") == ("True", "DeadlineExceeded")
    assert status["attempts"][-1]["outcome"] == "OutOfMemory"
    world.wait(600)
    world.settle()
    assert f"create Job {attempt('Train', 2)}" not in world.log


def test_a_cancelled_job_deploys_nothing_though_it_has_just_been_trained() -> None:
    world = World(a_job(deploy={"name": "live"}))
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train"))
    world.patch_spec(cancel=True)
    assert condition(world.settle(), "Failed") == ("True", "Cancelled")
    assert world.cache.all("AdapterDeployment") == []


def test_a_job_that_never_started_can_be_cancelled() -> None:
    world = World(a_job(adapter={"type": "DoRA"}, cancel=True))
    assert condition(world.settle(), "Failed") == ("True", "Cancelled")


# deploy


def test_deploy_creates_once_and_without_an_owner() -> None:
    world = World(a_job(deploy={"name": "live", "template": {"traffic": {"model": "bot-v1"}}}))
    world.training()
    status = ended(world, "Train", (0, a_summary("Train"), ""))
    body = world.get("AdapterDeployment", "live")
    assert body["spec"] == {"adapter": {"jobRef": {"name": "bot"}}, "traffic": {"model": "bot-v1"}}
    assert "ownerReferences" not in body["metadata"]
    assert condition(status, "DeployConflict") == ("False", "Created")
    world.remove("AdapterDeployment", "live")
    world.settle()
    assert world.cache.all("AdapterDeployment") == [], "its owner deleted it"


def test_a_deployment_of_another_is_left_alone() -> None:
    other = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "AdapterDeployment",
        "metadata": {"name": "live", "namespace": "team"},
        "spec": {"adapter": {"jobRef": {"name": "other"}}},
    }
    world = World(a_job(deploy={"name": "live"}), other)
    world.training()
    status = ended(world, "Train", (0, a_summary("Train"), ""))
    assert condition(status, "Complete") == ("True", "Complete")
    assert condition(status, "DeployConflict") == ("True", "AlreadyExists")
    world.remove("AdapterDeployment", "live")
    assert condition(world.settle(), "DeployConflict") == ("False", "Created")
