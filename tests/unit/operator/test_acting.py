"""Plans are carried out, and what the API server refuses is said. No API server: its part is played in place."""

from typing import Any

import pytest

import serving_builders as serving
from api_server_stand_in import Server, an_actor, stored
from builders import a_job
from finetune_operator import act
from finetune_operator.act import Refused, contains, event_manifest, merge_patch
from finetune_operator.cluster import ApiError
from finetune_operator.plan import Event, Key, Plan, StatusWrite, ref_of


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        pytest.param({}, {"a": 1}, {"a": 1}, id="added"),
        pytest.param({"a": 1, "b": 2}, {"a": 1}, {"b": None}, id="an absent field becomes null"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": None}}, id="nested"),
        pytest.param({"a": [1, 2]}, {"a": [2]}, {"a": [2]}, id="lists are replaced"),
        pytest.param({"a": {"b": 1}}, {"a": {"b": 1}}, {}, id="equal: nothing is sent"),
    ],
)
def test_merge_patch(old: Any, new: Any, patch: Any) -> None:
    assert merge_patch(old, new) == patch


@pytest.mark.parametrize(
    ("actual", "wanted", "expected"),
    [
        ({"a": 1, "defaulted": 2}, {"a": 1}, True),
        ({"a": [{"n": 1, "defaulted": 2}]}, {"a": [{"n": 1}]}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
    ],
)
def test_contains(actual: Any, wanted: Any, expected: bool) -> None:
    assert contains(actual, wanted) is expected


def test_the_same_event_has_the_same_name() -> None:
    about = ref_of(a_job())
    first = event_manifest(Event(about, "Normal", "Planned", "30 steps"), act.utc_now())
    again = event_manifest(Event(about, "Normal", "Planned", "30 steps"), act.utc_now())
    other = event_manifest(Event(about, "Normal", "Planned", "31 steps"), act.utc_now())
    assert first["metadata"]["name"] == again["metadata"]["name"] != other["metadata"]["name"]


async def test_a_status_decided_on_an_old_state_is_not_written() -> None:
    server = Server(stored("5"))
    actor, cache = an_actor(server, stored("4"))
    plan = Plan(statuses=(StatusWrite(ref_of(stored("4")), {"state": "Old"}),))
    assert await actor._carry_out(plan) is False
    assert server.patches == []
    newest = cache.get("FineTuneJob", "team", "bot")
    assert newest is not None
    assert newest["metadata"]["resourceVersion"] == "5"


@pytest.mark.parametrize(("owner", "accepted"), [("mine", True), ("other", False)])
async def test_a_taken_name_is_ours_only_with_our_controller(owner: str, accepted: bool) -> None:
    def job(uid: str) -> dict[str, Any]:
        return stored("1", ownerReferences=[{"uid": uid, "controller": True}])

    actor, cache = an_actor(Server(job(owner)))
    if accepted:
        await actor._carry_out(Plan(create=(job("mine"),)))
        assert cache.get("FineTuneJob", "team", "bot") is not None
    else:
        with pytest.raises(ApiError, match="exists"):
            await actor._carry_out(Plan(create=(job("mine"),)))


async def test_apply_is_sent_only_when_something_differs() -> None:
    def service(**labels: str) -> dict[str, Any]:
        meta = {"name": "bot", "namespace": "team", "labels": labels}
        return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {}}

    server = Server()
    actor, cache = an_actor(server)
    for manifest in (service(a="1", b="2"), service(a="1", b="2"), service(a="1"), service(a="1")):
        await actor._carry_out(Plan(apply=(manifest,)))
    assert [body["metadata"]["labels"] for body in server.applied] == [{"a": "1", "b": "2"}, {"a": "1"}]
    restarted, _ = an_actor(server, *cache.all("Service"))
    await restarted._carry_out(Plan(apply=(service(a="1"),)))
    assert len(server.applied) == 2, "after a restart an object that is as it should be is left alone"
    changed = {
        **server.applied[-1],
        "metadata": {**server.applied[-1]["metadata"], "labels": {}, "resourceVersion": "9"},
    }
    cache.store("Service", changed)
    await actor._carry_out(Plan(apply=(service(a="1"),)))
    assert len(server.applied) == 3, "drift is corrected"


async def test_a_failure_that_stays_is_written_into_the_status() -> None:
    server = Server(stored("1"))
    actor, _ = an_actor(server, stored("1"))
    await actor.failed(Key("FineTuneJob", "team", "bot"), RuntimeError("no way"), 1)
    assert server.patches == []
    await actor.failed(Key("FineTuneJob", "team", "bot"), RuntimeError("no way"), 3)
    (condition,) = server.patches[0]["conditions"]
    assert (condition["type"], condition["reason"]) == ("Stalled", "ReconcileError")
    assert "no way" in condition["message"]


async def test_what_is_refused_to_a_pool_is_written_into_its_members_status() -> None:
    world = serving.World().add(serving.an_adep("left"))
    world.settle()
    world.edit("left", mode="Merged")
    world.settle()
    bodies = [serving.an_adep("one"), serving.an_adep("two", "b"), serving.an_adep("apart", server={"pool": "other"})]
    server = Server(*bodies, world.adep("left"))
    actor, world.cache = an_actor(server, *(body for _, body in world.add(*bodies).cache.kinds()))
    pool = Key("Pool", "team", world.pool_of("left"))
    refused = ApiError(403, "PATCH deployments/x: 403 exceeded quota: small")
    await actor.failed(pool, refused, 3)
    assert len(server.patches) == 2
    for name in ("one", "two"):
        status, reason, said = world.ready(name)
        assert (status, reason) == ("False", "ReconcileError")
        assert "exceeded quota: small" in said
        assert world.is_stalled(name)
        assert world.adep(name)["status"]["state"] == "ReconcileError"
    await actor.failed(pool, refused, 4)
    assert len(server.patches) == 2, "said once"
    assert world.ready("left")[1] == "Unsupported", "two that write one status would never come to rest"
    world.settle()
    assert world.ready("one")[1] == "Starting"


class Strict(Server):
    """Refuses the Service of one name, as an admission webhook may."""

    refuses: str | None = None

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if (manifest["kind"], manifest["metadata"]["name"]) == ("Service", self.refuses):
            raise ApiError(403, "PATCH services/one: 403 services must have a label")
        return await super().apply(manifest)


async def test_what_is_refused_of_one_members_own_is_said_to_it_alone() -> None:
    bodies = [serving.an_adep("one"), serving.an_adep("two", "b")]
    world, server = serving.World().add(*bodies), Strict(*bodies)
    actor, world.cache = an_actor(server, *bodies)
    keys = world.keys()
    (pool,) = [key for key in keys if key.kind == "Pool"]
    server.refuses = "one"
    for failures in (1, 2, 3):
        with pytest.raises(Refused, match="must have a label") as refused:
            await actor.sync(pool)
        await actor.failed(pool, refused.value, failures)
        assert world.ready("two")[1] == "Starting"
    assert world.ready("one")[:2] == ("False", "ReconcileError")
    assert "must have a label" in world.ready("one")[2]
    server.refuses = None
    await actor.sync(pool)
    assert world.ready("one")[1] == "Starting"
    server.refuses = pool.name
    world.remove("Service", pool.name)
    with pytest.raises(ApiError, match="must have a label"):  # what all need is everybody's affair
        await actor.sync(pool)
