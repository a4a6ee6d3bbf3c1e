"""The moment in which a delegated job may begin to cost: nothing is submitted before it is let, and nothing that may have been is forgotten."""

from typing import Any

import pytest

from builders import PREPARE, TRAIN, World, a_job, a_summary, condition
from finetune_operator.reconcile.finetunejob.finalizer import FINALIZER

DELEGATED: dict[str, Any] = {
    "baseModel": {"uri": "openai://gpt"},
    "backend": {"openai": {"secretRef": {"name": "key"}}},
}


def held(world: World) -> bool:
    return FINALIZER in (world.get("FineTuneJob", "bot")["metadata"].get("finalizers") or [])


def cancelling(world: World) -> bool:
    return any("-cancel-" in job["metadata"]["name"] for job in world.cache.all("Job"))


def begun_unwritten(**spec: Any) -> World:
    """The train Job is created, and the operator ends before it has written that down; the pod may have submitted."""
    world = World(a_job(**DELEGATED, **spec))
    world.settle()
    world.end_pod(PREPARE, 0, a_summary("Prepare"))
    plan = world.plan()
    world.carry_out(plan, calls=len(plan.create))
    world.get("Job", TRAIN)
    return world


@pytest.mark.parametrize("ended", [False, True], ids=["that runs", "that has ended"])
@pytest.mark.parametrize("spec", [{"cancel": True}, {"activeDeadlineSeconds": 1}], ids=["cancelled", "too late"])
def test_what_a_pod_may_have_submitted_is_cancelled_at_the_provider(spec: dict[str, Any], ended: bool) -> None:
    world = begun_unwritten()
    if ended:
        world.end_pod(TRAIN, 143)
    world.wait(2)
    world.patch_spec(**spec)
    status = world.settle()
    assert (status["attempts"][-1]["stage"], status["state"]) == ("Train", "Failed")
    assert held(world)
    assert cancelling(world)


def test_a_deletion_cancels_it_too() -> None:
    world = begun_unwritten()
    world.delete_job()
    world.settle()
    assert held(world)
    assert cancelling(world)


def test_a_delegated_job_created_suspended_is_submitted_when_it_is_let() -> None:
    world = World(a_job(**DELEGATED, suspend=True))
    status = world.prepared()
    assert condition(status, "Suspended") == ("True", "Suspended")
    assert world.cache.get("Job", "team", TRAIN) is None
    world.patch_spec(suspend=False)
    status = world.settle()
    assert condition(status, "Suspended") == ("False", "Resumed")
    assert f"create Job {TRAIN}" in world.log


def test_one_whose_pod_may_have_submitted_goes_on() -> None:
    world = begun_unwritten()
    world.patch_spec(suspend=True)
    assert condition(world.settle(), "Suspended") == ("False", "Unsupported")
    assert f"delete Job {TRAIN}" not in world.log
