"""Running is what all pods of an attempt are: not one whose fellow waits for a node, nor one that was evicted and is to be replaced."""

from typing import Any

from builders import TRAIN, World, a_job, a_report, condition, message
from finetune_operator.cache import Manifest

RUNNING: Manifest = {"running": {}}
STOPPED: Manifest = {"terminated": {"exitCode": 143, "reason": "Error"}}
UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}


def put_pod(world: World, name: str, phase: str, state: Manifest | None = None, **status: Any) -> None:
    """A further pod of the train Job, in the shape of the first."""
    first = world.get("Pod", f"{TRAIN}-pod")
    containers = [{"name": "trainer", "image": "trainer", "state": state}] if state else []
    meta = {"name": name, "namespace": "team", "labels": first["metadata"]["labels"]}
    owners = first["metadata"]["ownerReferences"]
    said = {"phase": phase, "containerStatuses": containers, **status}
    world.put({**first, "metadata": {**meta, "ownerReferences": owners}, "status": said})


def test_several_pods_run_when_all_of_them_do() -> None:
    world = World(a_job(backend={"kubernetes": {"nodes": 2}}))
    status = world.training()
    assert condition(status, "Running") == ("False", "Starting"), "the second one is not there yet"
    put_pod(world, "second", "Pending", conditions=[UNPLACED])
    status = world.settle()
    assert condition(status, "Running") == ("False", "Unschedulable")
    assert message(status, "Running") == "Pod second: cannot be scheduled: 0/3 nodes are available"
    world.remove("Pod", "second")
    put_pod(world, "second", "Running", RUNNING)
    assert condition(world.settle(), "Running") == ("True", "Training")
    world.remove("Pod", "second")
    put_pod(world, "second", "Succeeded", {"terminated": {"exitCode": 0}})
    assert condition(world.settle(), "Running") == ("True", "Training"), "the first one publishes"


def test_an_evicted_pod_does_not_run_while_the_one_that_replaces_it_waits() -> None:
    world = World(a_job())
    world.training()
    world.say(a_report())
    assert world.settle()["eta"] == "12m"
    put_pod(world, f"{TRAIN}-pod", "Failed", STOPPED, conditions=[{"type": "DisruptionTarget", "status": "True"}])
    assert condition(world.settle(), "Running") == ("False", "Starting"), "the other one is not there yet"
    put_pod(world, "replacement", "Pending", conditions=[UNPLACED])
    status = world.settle()
    assert condition(status, "Running") == ("False", "Unschedulable")
    assert message(status, "Running") == "Pod replacement: cannot be scheduled: 0/3 nodes are available"
    assert "eta" not in status
    world.remove("Pod", "replacement")
    put_pod(world, "replacement", "Running", RUNNING)
    status = world.settle()
    assert condition(status, "Running") == ("True", "Training")
    assert "eta" not in status, "not before it reports one"
