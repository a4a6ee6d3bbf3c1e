"""Objects stored under another version of a definition: they are said to be unreadable, and stop nothing else."""

from typing import Any

import pytest

import serving_builders as serving
from builders import SETTINGS, World, a_job, condition, message
from finetune_operator.controllers import CONTROLLERS
from finetune_operator.plan import Key, Sources
from finetune_operator.watch import Watch

FOREIGN = {"training": {"maxSteps": "many"}}
"""What no version of ours can read."""


class Listed:
    """The API server's part of the first listing."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self.bodies = bodies

    async def list_all(self, kind: str, namespace: str | None, *, metadata_only: bool = False) -> list[dict[str, Any]]:
        return [body for body in self.bodies if body["kind"] == kind]


def a_foreign_job(name: str = "tuned") -> dict[str, Any]:
    body = serving.a_job(name)
    return {**body, "spec": {**body["spec"], **FOREIGN}}


async def test_a_job_that_cannot_be_read_leaves_every_other_pool_alone() -> None:
    world = serving.World().add(serving.an_adep("waits", job="tuned"), serving.an_adep("serves"), a_foreign_job())
    woken: list[Key] = []
    await Watch(Listed(*(body for _, body in world.cache.kinds())), world.sources(), woken.append).fill()  # type: ignore[arg-type]
    assert Key("AdapterDeployment", "team", "waits") in woken
    world.settle()
    assert world.models(world.pool_of("serves")) == {"serves": "a"}
    status, reason, said = world.ready("waits")
    assert (status, reason) == ("False", "WaitingForJob")
    assert "FineTuneJob tuned cannot be read (spec.training.maxSteps: " in said


async def test_what_nobody_foresaw_ends_no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(sources: Sources, kind: str, body: Any) -> list[Key]:
        raise KeyError("nobody foresaw this")

    monkeypatch.setitem(CONTROLLERS, "Pool", CONTROLLERS["Pool"]._replace(keys=keys))
    world, woken = World(), list[Key]()
    sources = Sources(SETTINGS, world.cache, world.reports, {})
    jobs = [{**a_job(name), "metadata": {**a_job(name)["metadata"], "resourceVersion": "1"}} for name in ("one", "two")]
    await Watch(Listed(*jobs), sources, woken.append).fill()  # type: ignore[arg-type]
    assert [key.name for key in woken] == ["one", "two"]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"baseModel": {"jobRef": {"name": "earlier"}}}, id="the base"),
        pytest.param({"adapter": {"type": "LoRA", "initial": {"jobRef": {"name": "earlier"}}}}, id="the adapter"),
        pytest.param(
            {"method": {"grpo": {"rewardModel": {"jobRef": {"name": "earlier"}}}}}, id="the model of the rewards"
        ),
    ],
)
def test_a_job_waits_for_one_that_cannot_be_read(spec: dict[str, Any]) -> None:
    world = World(a_job("earlier", **FOREIGN), a_job(**spec))
    status = world.settle()
    assert condition(status, "Running") == ("False", "WaitingForJob")
    assert "Waits for FineTuneJob earlier, which cannot be read (spec.training.maxSteps: " in message(status, "Running")
    assert not [line for line in world.log if line.startswith("create")]
