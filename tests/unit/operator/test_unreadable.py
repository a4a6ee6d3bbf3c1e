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
    server: Any = Listed(*(body for _, body in world.cache.kinds()))
    await Watch(server, world.sources(), woken.append).fill()
    assert Key("AdapterDeployment", "team", "waits") in woken
    world.settle()
    assert world.models(world.pool_of("serves")) == {"serves": "a"}
    status, reason, said = world.ready("waits")
    assert (status, reason) == ("False", "WaitingForJob")
    assert "FineTuneJob tuned cannot be read (spec.training.maxSteps: " in said


@pytest.mark.parametrize(
    "field",
    [
        {"baseModel": "s3://models/base"},
        {"method": {"grpo": {"rewardModel": ["a"]}}},
        {"deploy": "live"},
        {"adapter": {"initial": {"jobRef": {"name": 7}}}},
    ],
)
def test_a_job_of_another_shape_can_be_listed(field: dict[str, Any]) -> None:
    world = World(a_job(**field))
    assert condition(world.settle(), "Accepted") == ("False", "Unsupported")


async def test_what_nobody_foresaw_ends_no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(sources: Sources, kind: str, body: Any) -> list[Key]:
        raise KeyError("nobody foresaw this")

    monkeypatch.setitem(CONTROLLERS, "Pool", CONTROLLERS["Pool"]._replace(keys=keys))
    world, woken = World(), list[Key]()
    sources = Sources(SETTINGS, world.cache, world.reports, {})
    jobs = [{**a_job(name), "metadata": {**a_job(name)["metadata"], "resourceVersion": "1"}} for name in ("one", "two")]
    server: Any = Listed(*jobs)
    await Watch(server, sources, woken.append).fill()
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


@pytest.mark.parametrize(
    ("annotations", "events"),
    [
        pytest.param({}, ["Warning ProviderCancelFailed"], id="its provider's job is told of"),
        pytest.param({"finetune.dev/orphan": "true"}, [], id="an orphan goes without a word"),
    ],
)
def test_a_delegated_job_that_cannot_be_read_can_be_deleted(annotations: dict[str, str], events: list[str]) -> None:
    body = a_job(status={"provider": {"job": "j-7"}}, **FOREIGN)
    meta = {**body["metadata"], "finalizers": ["finetune.dev/provider"], "annotations": annotations}
    world = World({**body, "metadata": meta})
    world.settle()
    assert world.get("FineTuneJob", "bot")["metadata"]["finalizers"] == ["finetune.dev/provider"]
    world.delete_job()
    said = [event.message for event in world.plan().events]
    assert all("job j-7 may still run: the object cannot be read (spec.training.maxSteps: " in each for each in said)
    world.settle()
    assert world.cache.get("FineTuneJob", "team", "bot") is None
    assert world.events == events


# AdapterDeployments


def make_unreadable(world: serving.World, name: str, **status: Any) -> None:
    """Another version's object is stored; ``status`` has what that version says."""
    world.edit(name, server={"baseModel": serving.BASE, "replicas": "many"})
    body = world.adep(name)
    world.add({**body, "metadata": serving.meta(name, generation=2), "status": {**body["status"], **status}})


def objects(world: serving.World) -> list[tuple[str, str, Any]]:
    """What is there to serve, as it is stored."""
    kinds = ("Deployment", "ConfigMap", "Service")
    return [
        (kind, body["metadata"]["name"], body.get("spec", body.get("data")))
        for kind in kinds
        for body in world.cache.all(kind)
    ]


def test_an_adapter_deployment_that_cannot_be_read_goes_on_serving() -> None:
    world = serving.World().add(serving.an_adep("one"))
    world.settle()
    before, there = world.adep("one")["status"], objects(world)
    make_unreadable(world, "one", future={"field": 1}, replicas="a lot")
    world.settle()
    assert objects(world) == there
    assert world.models(world.pool_of("one")) == {"one": "a"}
    status, reason, said = world.ready("one")
    assert (status, reason) == ("False", "Unsupported")
    assert "spec.server.replicas: " in said
    assert "status.replicas: " in said
    assert said.endswith("What served before still serves.")
    after = world.adep("one")["status"]
    assert after["adapter"] == before["adapter"]
    assert (after["future"], after["replicas"]) == ({"field": 1}, "a lot"), "another version's, left alone"
    assert (after["state"], after["observedGeneration"]) == ("Unsupported", 2)


def test_the_others_of_its_pool_come_and_go() -> None:
    world = serving.World().add(serving.an_adep("one", server={"replicas": 3}), serving.an_adep("two", "b"))
    world.settle()
    pool = world.pool_of("one")
    make_unreadable(world, "one")
    world.remove("AdapterDeployment", "two")
    world.add(serving.an_adep("three", "c"))
    world.settle()
    assert world.models(pool) == {"one": "a", "three": "c"}
    deployment = world.cache.get("Deployment", "team", pool)
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 3
    assert [owner["name"] for owner in deployment["metadata"]["ownerReferences"]] == ["one", "three"]
    world.remove("AdapterDeployment", "three")
    world.settle()
    assert world.models(pool) == {"one": "a"}
    world.remove("AdapterDeployment", "one")
    world.settle()
    assert world.pools() == []


def test_its_model_name_stays_taken_and_its_share_of_a_split_goes_on() -> None:
    split = [{"adapter": "one", "weight": 1}, {"adapter": "Self", "weight": 1}]
    world = serving.World().add(serving.an_adep("one"), serving.an_adep("two", "b", traffic={"split": split}))
    world.settle()
    make_unreadable(world, "one")
    late = serving.an_adep("late", "c", traffic={"model": "one"})
    world.add({**late, "metadata": {**late["metadata"], "creationTimestamp": "2026-02-01T00:00:00Z"}})
    world.settle()
    assert world.ready("late")[1] == "NameTaken"
    desired = world.reports.desired["team", world.pool_of("two")]
    shares = next(each.split for each in desired.adapters if each.deployment == "two")
    assert shares is not None
    assert [share.message for share in shares] == [None, None]
