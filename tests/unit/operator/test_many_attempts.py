"""status.attempts has room for 32: what later decisions go by is not forgotten for those that came after."""

from typing import Any

import pytest

from builders import World, a_job, attempt
from finetune_operator.cache import Manifest
from finetune_operator.reconcile.finetunejob.records import MAX_RECORDS


def micro_batch_divisor(world: World, job: str) -> str:
    arguments: list[str] = world.get("Job", job)["spec"]["template"]["spec"]["containers"][0]["args"]
    return arguments[arguments.index("--micro-batch-divisor") + 1]


def suspend_and_resume(world: World, number: int) -> None:
    world.patch_spec(suspend=True)
    world.settle()
    world.cache.remove("Pod", world.get("Pod", f"{attempt('Train', number)}-pod"))
    world.patch_spec(suspend=False)
    world.settle()


def interrupt(world: World, number: int) -> None:
    world.end_pod(attempt("Train", number), 143)
    world.settle()
    world.wait(130)
    world.settle()


def out_of_memory(world: World, number: int) -> Manifest:
    world.end_pod(attempt("Train", number), 137, "", "OOMKilled")
    world.settle()
    world.wait(130)
    return world.settle()


@pytest.mark.parametrize(("again", "times"), [(suspend_and_resume, 40), (interrupt, 20)])
def test_the_memory_that_was_lacking_and_the_retries_are_not_forgotten(again: Any, times: int) -> None:
    world = World(a_job(maxRetries=12))
    world.training()
    for number in range(1, 13):
        out_of_memory(world, number)
        world.run_pod(attempt("Train", number + 1))
    for number in range(13, 13 + times):
        again(world, number)
        world.run_pod(attempt("Train", number + 1))
    status = world.settle()
    assert len(status["attempts"]) == MAX_RECORDS
    assert [each["number"] for each in status["attempts"]][-2:] == [12 + times, 13 + times]
    assert [each.get("outcome") for each in status["attempts"]].count("OutOfMemory") == 12
    assert micro_batch_divisor(world, attempt("Train", 13 + times)) == str(2**12)
    status = out_of_memory(world, 13 + times)
    assert "maxRetries 12 is used up" in status["message"]
