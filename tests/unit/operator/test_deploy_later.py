"""spec.deploy may be set, changed and taken out after the start: it is looked at then as it was before it."""

from typing import Any

import pytest

from builders import TRAIN, World, a_job, a_summary, condition, message

OTHERS = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "AdapterDeployment",
    "metadata": {"name": "live", "namespace": "team"},
    "spec": {"adapter": {"jobRef": {"name": "other"}}},
}


def complete(*others: Any, **spec: Any) -> World:
    world = World(a_job(**spec), *others)
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train"))
    world.settle()
    return world


@pytest.mark.parametrize("adapter", ["LoRA", "DoRA"])
@pytest.mark.parametrize("method", ["reward", "classification"])
def test_a_model_that_scores_is_not_deployed_later_either(method: str, adapter: str) -> None:
    world = complete(method={method: {}}, adapter={"type": adapter})
    world.patch_spec(deploy={"name": "live"})
    status = world.settle()
    assert condition(status, "DeployConflict") == ("True", "Unsupported")
    assert message(status, "DeployConflict") == (
        f"deploy serves models that write text, and method {method} makes one that scores it; leave deploy out."
    )
    assert world.cache.all("AdapterDeployment") == []


def test_a_conflict_is_over_when_nothing_is_to_be_deployed() -> None:
    world = complete(OTHERS, deploy={"name": "live"})
    assert condition(world.get("FineTuneJob", "bot")["status"], "DeployConflict") == ("True", "AlreadyExists")
    world.patch_spec(deploy=None)
    assert condition(world.settle(), "DeployConflict") == ("False", "NotAsked")
