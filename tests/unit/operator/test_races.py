"""What changes while a plan is carried out: nothing is written that was decided about another spec."""

import json
from typing import Any

import pytest

from api_server_stand_in import Server, an_actor, stored
from finetune_operator.manifests.training import CONFIG_KEY, config_name
from finetune_operator.plan import Key, Plan, Ref, StatusWrite, ref_of

KEY = Key("FineTuneJob", "team", "bot")
CONFIG = config_name("bot", stored("1")["metadata"]["uid"])
DELEGATED: dict[str, Any] = {
    "baseModel": {"uri": "openai://gpt"},
    "backend": {"openai": {"secretRef": {"name": "key"}}},
}


class Cluster:
    """A job that is about to start, and an operator that watches."""

    def __init__(self, **spec: Any) -> None:
        job = stored("1")
        job["spec"] |= spec
        self.server = Server(job)
        self.actor, self.cache = an_actor(self.server, job)

    @property
    def job(self) -> dict[str, Any]:
        return self.server.bodies["FineTuneJob", "bot"]

    def edit(self, **spec: Any) -> None:
        """The user changes the spec, which the API server refuses once the job has started."""
        assert "startTime" not in self.job.get("status", {})
        meta = {**self.job["metadata"], "generation": self.job["metadata"]["generation"] + 1}
        self.server.put({**self.job, "metadata": meta, "spec": {**self.job["spec"], **spec}})

    def show(self) -> None:
        """The watch shows everything."""
        for kind, body in list(self.cache.kinds()):
            if (kind, body["metadata"]["name"]) not in self.server.bodies:
                self.cache.remove(kind, body)
        for (kind, _), body in self.server.bodies.items():
            if kind != "Event":
                self.cache.store(kind, body)

    async def start(self) -> dict[str, Any]:
        """Rounds of the operator until the job has started; what it was started with."""
        for _ in range(6):
            await self.actor.sync(KEY)
            self.show()
            if "startTime" in self.job.get("status", {}):
                frozen: dict[str, Any] = json.loads(self.server.bodies["ConfigMap", CONFIG]["data"][CONFIG_KEY])
                return frozen
        raise AssertionError(f"does not start: {self.job.get('status')}")


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen at once", "not seen yet"])
@pytest.mark.parametrize(
    ("spec", "calls"), [({}, 1), (DELEGATED, 1), (DELEGATED, 2)], ids=["frozen", "delegated and frozen", "held"]
)
async def test_a_job_starts_with_the_spec_it_is_locked_with(spec: dict[str, Any], calls: int, is_seen: bool) -> None:
    cluster = Cluster(**spec)
    left = [calls]

    def edit() -> None:
        left[0] -= 1
        if left[0] == 0:
            cluster.edit(maxRetries=9)
            if is_seen:
                cluster.show()

    cluster.server.meanwhile = edit
    frozen = await cluster.start()
    assert left[0] <= 0, "the edit came while the plan was carried out"
    assert frozen["spec"]["maxRetries"] == cluster.job["spec"]["maxRetries"] == 9


@pytest.mark.parametrize("content", ["another spec", "what nobody reads", "nothing"])
async def test_a_configuration_of_before_that_the_operator_has_not_seen_does_not_start_the_job(content: str) -> None:
    earlier = Cluster()
    await earlier.start()
    config = earlier.server.bodies["ConfigMap", CONFIG]
    cluster = Cluster(maxRetries=9)
    data = {"another spec": config["data"], "what nobody reads": {CONFIG_KEY: '{"of": "tomorrow"}'}, "nothing": {}}
    cluster.server.put({**config, "data": data[content]})
    assert (await cluster.start())["spec"]["maxRetries"] == 9


async def test_a_configuration_of_before_that_says_the_same_is_kept() -> None:
    earlier = Cluster()
    await earlier.start()
    cluster = Cluster()
    kept = cluster.server.put(earlier.server.bodies["ConfigMap", CONFIG])
    await cluster.start()
    assert cluster.server.bodies["ConfigMap", CONFIG] == kept


class Restored(Server):
    """An API server whose etcd was restored from a backup: its versions are lower than those the operator has seen."""

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        found = await super().get(ref)
        self.meanwhile()
        return found


@pytest.mark.parametrize("is_newer_seen", [False, True])
async def test_after_a_restored_backup_a_refused_state_gives_way_and_no_other(is_newer_seen: bool) -> None:
    server = Restored(stored("5"))
    actor, cache = an_actor(server, stored("900"))

    def show() -> None:
        if is_newer_seen:
            cache.store("FineTuneJob", stored("901"))

    server.meanwhile = show
    plan = Plan(statuses=(StatusWrite(ref_of(stored("900")), {"state": "New"}),))
    assert await actor._carry_out(plan) is False
    known = cache.get("FineTuneJob", "team", "bot")
    assert known == stored("901" if is_newer_seen else "5")
    assert await actor._carry_out(plan) is not is_newer_seen
