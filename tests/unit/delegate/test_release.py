"""A delegated job may cost until it is cancelled at the provider: it is not let go before that was tried."""

from typing import Any

import pytest

from builders import TRAIN, World, a_job, attempt
from finetune_operator.manifests.delegate import CANCEL_SECONDS
from finetune_operator.reconcile.finetunejob.release import OVERDUE_SECONDS

DELEGATED: dict[str, Any] = {
    "baseModel": {"uri": "openai://gpt"},
    "backend": {"openai": {"secretRef": {"name": "key"}}},
}
CANCEL = attempt("Cancel")


def is_there(world: World, kind: str = "FineTuneJob", name: str = "bot") -> bool:
    return world.cache.get(kind, "team", name) is not None


def at_a_provider() -> World:
    """A job whose delegate has submitted."""
    world = World(a_job(**DELEGATED))
    world.training()
    return world


def deleted_while_nobody_looked(world: World) -> None:
    world.remove("Pod", f"{TRAIN}-pod")
    world.delete_job()
    world.wait(CANCEL_SECONDS + 60)
    world.settle()


def failed_before_anybody_was_sent(world: World) -> None:
    world.end_pod(TRAIN, 15)
    world.carry_out(world.plan())
    world.wait(CANCEL_SECONDS + 60)
    world.settle()
    world.delete_job()
    world.settle()


@pytest.mark.parametrize("away", [deleted_while_nobody_looked, failed_before_anybody_was_sent])
def test_an_operator_that_was_away_cancels_first(away: Any) -> None:
    world = at_a_provider()
    away(world)
    assert is_there(world, "Job", CANCEL)
    assert is_there(world)
    world.wait(CANCEL_SECONDS - 1)
    world.settle()
    assert is_there(world), "whoever cancels has its time from when it was sent"
    world.end_job(CANCEL, "Complete")
    world.settle()
    assert not is_there(world)
    assert "Warning ProviderCancelFailed" not in world.events


def test_a_cancellation_that_comes_to_nothing_is_waited_for_only_so_long() -> None:
    world = at_a_provider()
    world.remove("Pod", f"{TRAIN}-pod")
    world.delete_job()
    world.settle()
    world.wait(CANCEL_SECONDS)
    world.settle()
    assert not is_there(world)
    assert "Warning ProviderCancelFailed" in world.events


def test_a_delegate_that_does_not_go_is_waited_for_only_so_long() -> None:
    world = at_a_provider()
    world.delete_job()
    world.settle()
    world.wait(OVERDUE_SECONDS - 1)
    world.settle()
    assert not is_there(world, "Job", CANCEL), "a live delegate could still submit"
    world.wait(1)
    world.settle()
    assert is_there(world, "Job", CANCEL)


def test_whoever_was_sent_without_being_told_what_to_cancel_is_sent_anew() -> None:
    """The operator ended between creating the Job and its ConfigMap, and came back when the Job's time was over."""
    world = at_a_provider()
    world.remove("Pod", f"{TRAIN}-pod")
    world.delete_job()
    world.carry_out(world.plan())
    world.end_job(CANCEL, "Failed")
    first = world.get("Job", CANCEL)["metadata"]["uid"]
    world.settle()
    assert is_there(world)
    assert world.get("Job", CANCEL)["metadata"]["uid"] != first
    assert is_there(world, "ConfigMap", CANCEL)
