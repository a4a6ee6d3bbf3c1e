"""ttlSecondsAfterFinished: a job that has ended goes in its time, and not from under those that are about to take what it made."""

from typing import Any

import pytest

from builders import DIGEST, SETTINGS, TRAIN, World, a_job, a_summary
from finetune_operator.cache import Manifest
from finetune_operator.controllers import CONTROLLERS
from finetune_operator.plan import Key, Sources

GONE = "delete FineTuneJob bot"


def complete(world: World, gate_passed: bool = True, kind: str = "Adapter") -> None:
    """The job ends; a minute later its time has come."""
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train", gate_passed=gate_passed, kind=kind))
    world.settle()
    world.wait(61)
    world.settle()


def a_deployment(**spec: Any) -> Manifest:
    """One that names the job and has not looked at it yet."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "AdapterDeployment",
        "metadata": {"name": "live", "namespace": "team"},
        "spec": {"adapter": {"jobRef": {"name": "bot"}}, **spec},
    }


def serving(world: World, uid: str) -> None:
    """The AdapterDeployment has resolved the adapter of a job of that uid."""
    adapter = {"uri": "s3://models/adapter", "digest": DIGEST, "jobName": "bot", "jobUid": uid}
    body = world.get("AdapterDeployment", "live")
    world.put({**body, "status": {**body.get("status", {}), "adapter": adapter}})


def test_an_expired_job_is_deleted_and_its_deployment_stays() -> None:
    world = World(a_job(ttlSecondsAfterFinished=60, deploy={"name": "live"}))
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train"))
    world.settle()
    assert world.plan().requeue_after == pytest.approx(60)
    world.wait(61)
    world.settle()
    assert GONE not in world.log, "the AdapterDeployment has not taken the adapter yet"
    serving(world, uid="of an earlier job of that name")
    world.settle()
    assert GONE not in world.log
    serving(world, uid="bot000-uid")
    world.settle()
    assert world.log[-1] == GONE
    assert [body["metadata"]["name"] for body in world.cache.all("AdapterDeployment")] == ["live"]
    assert world.cache.all("Job") == []


@pytest.mark.parametrize(
    ("deployment", "made"),
    [
        pytest.param(a_deployment(), {"kind": "Model"}, id="that serves no whole model"),
        pytest.param(a_deployment(), {"gate_passed": False}, id="that serves nothing without its gate"),
        pytest.param(a_deployment(server={"runtime": {"vllm": {}}}), {}, id="that serves nothing as it stands"),
        pytest.param(a_deployment(adapter={"jobRef": {"name": "other"}}), {}, id="of another job"),
    ],
)
def test_a_deployment_holds_no_job_up(deployment: Manifest, made: dict[str, Any]) -> None:
    world = World(a_job(ttlSecondsAfterFinished=60), deployment)
    complete(world, **made)
    assert GONE in world.log


def test_a_job_that_waits_for_another_one_too_finds_the_first_still_there() -> None:
    initial = {"adapter": {"type": "LoRA", "initial": {"jobRef": {"name": "bot"}}}}
    previous = {
        "evaluation": {"previous": {"jobRef": {"name": "slow"}}},
        "dataset": {"train": {"uri": "s3://data/rows.jsonl"}, "split": {"test": 0.1}},
    }
    world = World(a_job(ttlSecondsAfterFinished=60), a_job("next", **initial, **previous))
    world.settle("next")
    complete(world)
    assert GONE not in world.log
    world.settle("next")
    waiting = world.get("FineTuneJob", "next")
    world.put({**waiting, "status": {**waiting["status"], "startTime": "2026-11-23T12:00:00Z"}})
    world.settle()
    assert world.log[-1] == GONE


def test_a_job_that_was_refused_holds_nobody_up() -> None:
    world = World(a_job(ttlSecondsAfterFinished=60), a_job("next", baseModel={"jobRef": {"name": "bot"}}))
    complete(world)
    assert GONE not in world.log
    world.settle("next")
    world.settle()
    assert GONE in world.log, "it takes a whole model, and this one made an adapter"


def test_whoever_takes_what_a_job_made_wakes_it() -> None:
    world = World(a_deployment(), a_job(), a_job("next", baseModel={"jobRef": {"name": "bot"}}))
    controller = CONTROLLERS["FineTuneJob"]
    sources = Sources(SETTINGS, world.cache, world.reports, {})
    for kind, name in (("AdapterDeployment", "live"), ("FineTuneJob", "next")):
        woken = set(controller.keys(sources, kind, world.get(kind, name)))
        assert Key("FineTuneJob", "team", "bot") in woken
