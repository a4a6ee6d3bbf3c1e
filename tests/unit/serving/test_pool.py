"""Who shares a pool, what a pool consists of, and how it comes and goes."""

from typing import Any

import pytest

from finetune_operator.plan import Key
from serving_builders import BASE, World, a_job, an_adep, digest


class TestMembership:
    @pytest.mark.parametrize(
        "server",
        [
            pytest.param({"pool": "other"}, id="another pool"),
            pytest.param({"baseModel": {"uri": "s3://models/other"}}, id="another base"),
            pytest.param({"baseModel": BASE | {"digest": digest("f")}}, id="a pinned base"),
            pytest.param({"baseModel": BASE | {"secretRef": {"name": "other"}}}, id="other credentials for the base"),
            pytest.param({"secretRef": {"name": "other"}}, id="other credentials"),
            pytest.param({"serviceAccountName": "loader"}, id="another service account"),
            pytest.param({"runtime": {"transformers": {"maxLoraRank": 128}}}, id="another server"),
        ],
    )
    def test_other_settings_are_another_pool(self, server: dict[str, Any]) -> None:
        world = World(uncached={"ServiceAccount/loader": {"metadata": {"annotations": {"finetune.dev/allow": "true"}}}})
        world.add(an_adep("one"), an_adep("two", server=server)).settle()
        assert world.pool_of("one") != world.pool_of("two")
        assert sorted(world.pools()) == sorted([world.pool_of("one"), world.pool_of("two")])

    def test_other_credentials_for_adapters_are_another_pool(self) -> None:
        base = {"baseModel": BASE | {"secretRef": {"name": "models"}}}
        world = World().add(
            an_adep("one", server=base | {"secretRef": {"name": "red"}}),
            an_adep("two", server=base | {"secretRef": {"name": "blue"}}),
        )
        world.settle()
        assert len(world.pools()) == 2

    @pytest.mark.parametrize(
        "server",
        [
            pytest.param({"pool": "default"}, id="the default pool by name"),
            pytest.param({"replicas": 3}, id="more replicas"),
            pytest.param({"runtime": {"transformers": {}}}, id="the default runtime by name"),
        ],
    )
    def test_the_same_settings_share_one(self, server: dict[str, Any]) -> None:
        world = World().add(an_adep("one"), an_adep("two", "b", server=server))
        world.settle()
        assert world.pools() == [world.pool_of("one")]
        assert world.models(world.pool_of("one")) == {"one": "a", "two": "b"}

    def test_a_pool_has_the_most_replicas_asked_for_and_every_member_as_owner(self) -> None:
        world = World().add(an_adep("one"), an_adep("two", server={"replicas": 3}))
        world.settle()
        for kind in ("Deployment", "ConfigMap", "Service"):
            found = world.cache.get(kind, "team", world.pool_of("one"))
            assert found is not None
            owners = found["metadata"]["ownerReferences"]
            assert [(owner["uid"], "controller" in owner) for owner in owners] == [
                ("uid-one", False),
                ("uid-two", False),
            ]
        deployment = world.cache.get("Deployment", "team", world.pool_of("one"))
        assert deployment is not None
        assert deployment["spec"]["replicas"] == 3

    def test_another_adapter_changes_no_pod(self) -> None:
        world = World().add(an_adep("one"))
        world.settle()
        pool = world.pool_of("one")
        before = world.cache.get("Deployment", "team", pool)
        world.add(an_adep("two", "b"))
        world.settle()
        after = world.cache.get("Deployment", "team", pool)
        assert before is not None
        assert after is not None
        assert before["spec"] == after["spec"]

    def test_an_empty_pool_is_deleted_and_the_others_stay(self) -> None:
        world = World().add(an_adep("one"), an_adep("two", server={"pool": "other"}))
        world.settle()
        gone, kept = world.pool_of("one"), world.pool_of("two")
        body = world.adep("one")
        world.remove("AdapterDeployment", "one")
        assert {key.name for name in ("Pool",) for key in woken(world, body) if key.kind == name} == {gone}
        world.settle()
        assert world.pools() == [kept]
        assert world.cache.get("ConfigMap", "team", gone) is None
        assert ("team", gone) not in world.reports.desired

    def test_one_that_moves_leaves_the_old_pool(self) -> None:
        world = World().add(an_adep("one"), an_adep("two", "b"))
        world.settle()
        old = world.pool_of("one")
        world.edit("one", server={"baseModel": BASE, "pool": "new"})
        assert {key.name for key in world.keys("AdapterDeployment", "one") if key.kind == "Pool"} >= {old}
        world.settle()
        assert world.models(old) == {"two": "b"}
        assert world.models(world.pool_of("one")) == {"one": "a"}
        service = world.cache.get("Service", "team", "one")
        assert service is not None
        assert service["spec"]["selector"] == {"finetune.dev/pool": world.pool_of("one")}

    def test_the_pool_it_left_is_found_again_after_a_crash(self) -> None:
        world = World().add(an_adep("one"))
        world.settle()
        old = world.pool_of("one")
        world.edit("one", server={"baseModel": BASE, "pool": "new"})
        world.sync(*[key for key in world.keys("AdapterDeployment", "one") if key.name != old])
        assert world.pool_of("one") != old, "nothing but the old pool's own objects remembers it"
        world.settle()
        assert world.pools() == [world.pool_of("one")]

    def test_one_being_deleted_is_no_member(self) -> None:
        leaving = an_adep("one")
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
        world = World().add(leaving, an_adep("two"))
        world.settle()
        assert world.models(world.pool_of("two")) == {"two": "a"}


def woken(world: World, body: dict[str, Any]) -> set[Key]:
    from finetune_operator.controllers import CONTROLLERS

    return {
        key
        for name in ("AdapterDeployment", "Pool")
        for key in CONTROLLERS[name].keys(world.sources(), body["kind"], body)
    }


class TestNames:
    def test_of_two_with_the_same_model_the_oldest_wins(self) -> None:
        young, old = an_adep("a-young", traffic={"model": "bot"}), an_adep("z-old", "b", traffic={"model": "bot"})
        young["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
        world = World().add(young, old)
        world.settle()
        assert world.models(world.pool_of("z-old")) == {"bot": "b"}
        status, reason, message = world.ready("a-young")
        assert (status, reason) == ("False", "NameTaken")
        assert "AdapterDeployment z-old" in message
        assert world.is_stalled("a-young")
        assert world.ready("z-old")[1] == "Starting"
        assert "url" not in world.adep("a-young")["status"]

    def test_the_name_is_free_again_when_the_oldest_goes(self) -> None:
        old, young = an_adep("a", traffic={"model": "bot"}), an_adep("b", "b", traffic={"model": "bot"})
        world = World().add(old, young)
        world.settle()
        pool = world.pool_of("a")
        world.remove("AdapterDeployment", "a")
        world.settle()
        assert world.models(pool) == {"bot": "b"}
        assert world.ready("b")[1] == "Starting"

    def test_no_adapter_may_be_called_like_the_base(self) -> None:
        world = World().add(an_adep("one", traffic={"model": "base"}))
        world.settle()
        assert world.ready("one")[1] == "NameTaken"
        assert "the base model" in world.ready("one")[2]

    def test_the_same_name_in_another_pool_is_free(self) -> None:
        world = World().add(an_adep("one", traffic={"model": "bot"}))
        world.add(an_adep("two", traffic={"model": "bot"}, server={"pool": "other"}))
        world.settle()
        assert world.ready("two")[1] == "Starting"

    def test_somebody_elses_service_is_left_alone(self) -> None:
        foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "one", "namespace": "team"}}
        world = World(uncached={"Service/one": foreign}).add(an_adep("one"))
        plans = world.sync()
        assert [m["metadata"]["name"] for plan in plans for m in plan.apply if m["kind"] == "Service"] == [
            world.pool_of("one")
        ]
        assert world.ready("one")[1] == "NameTaken"

    def test_the_one_beyond_the_limit_is_told_so(self) -> None:
        world = World().add(*(an_adep(f"a{number:03}") for number in range(257)))
        world.sync()
        pool = world.pool_of("a000")
        assert len(world.models(pool)) == 256
        assert world.ready("a256")[1] == "Unsupported"
        assert "256 adapters" in world.ready("a256")[2]


class TestReferences:
    def test_a_job_that_passed_its_gate_is_served_with_its_own_base_and_secret(self) -> None:
        world = World().add(a_job("tuned", "d"), an_adep("one", job="tuned"))
        world.settle()
        desired = world.reports.desired["team", world.pool_of("one")]
        assert desired.base_model.wire() == BASE | {"digest": digest("e"), "secretRef": {"name": "s3"}}
        assert [each.wire() for each in desired.adapters] == [
            {
                "deployment": "one",
                "model": "one",
                "uri": "s3://models/tuned/adapter",
                "digest": digest("d"),
                "secretRef": {"name": "s3"},
            }
        ]

    @pytest.mark.parametrize(
        ("job", "reason", "says"),
        [
            pytest.param(None, "WaitingForJob", "does not exist", id="no job of that name"),
            pytest.param(
                a_job(complete=False, gate="Unknown"), "WaitingForJob", "Training: step 3", id="a job that runs"
            ),
            pytest.param(a_job(complete=False, gate="False"), "GateFailed", "Accuracy 0.1", id="a failed gate"),
            pytest.param(
                a_job(artifact={"kind": "Model", "uri": "s3://m", "digest": digest()}),
                "Unsupported",
                "adapter LoRA",
                id="a whole model",
            ),
        ],
    )
    def test_what_a_job_cannot_give(self, job: dict[str, Any] | None, reason: str, says: str) -> None:
        world = World().add(an_adep("one", job="tuned"), *([job] if job else []))
        world.settle()
        status, found, message = world.ready("one")
        assert (status, found) == ("False", reason)
        assert says in message
        assert world.pools() == []
        assert world.is_stalled("one") == (reason != "WaitingForJob")

    def test_a_job_wakes_those_that_refer_to_it(self) -> None:
        world = World().add(an_adep("one", job="tuned"), an_adep("two"))
        world.settle()
        world.add(a_job())
        keys = world.keys("FineTuneJob", "tuned")
        assert {key.name for key in keys if key.kind == "AdapterDeployment"} == {"one"}
        assert len([key for key in keys if key.kind == "Pool"]) == 1

    def test_what_was_resolved_survives_the_jobs_deletion(self) -> None:
        world = World().add(a_job(), an_adep("one", job="tuned"))
        world.settle()
        world.remove("FineTuneJob", "tuned")
        world.settle()
        assert world.models(world.pool_of("one")) == {"one": "a"}
        assert world.ready("one")[1] == "Starting"

    def test_credentials_can_be_changed_after_the_jobs_deletion(self) -> None:
        world = World().add(a_job(), an_adep("one", job="tuned"))
        world.settle()
        world.remove("FineTuneJob", "tuned")
        world.edit("one", server={"secretRef": {"name": "rotated"}})
        world.settle()
        desired = world.reports.desired["team", world.pool_of("one")]
        assert [each.secret_ref.name for each in desired.adapters] == ["rotated"]
        assert world.adep("one")["status"]["adapter"]["secretRef"] == {"name": "rotated"}

    def test_a_runtime_that_does_not_fit_is_said_after_the_jobs_deletion_too(self) -> None:
        world = World().add(a_job(), an_adep("one", job="tuned"))
        world.settle()
        world.remove("FineTuneJob", "tuned")
        world.edit("one", server={"runtime": {"provider": {"openai": {"baseModel": "gpt"}}}})
        world.settle()
        assert world.ready("one")[:2] == ("False", "Unsupported")
        assert world.models(world.pool_of("one")) == {"one": "a"}

    @pytest.mark.parametrize(
        "again",
        [a_job("tuned", "b", complete=False, gate="Unknown"), a_job("tuned", "b", complete=False, gate="False")],
        ids=["runs", "failed its gate"],
    )
    def test_a_newer_job_of_the_name_takes_over_only_when_it_passed(self, again: dict[str, Any]) -> None:
        world = World().add(a_job(), an_adep("one", job="tuned"))
        world.settle()
        world.remove("FineTuneJob", "tuned")
        world.add(again)
        world.settle()
        assert world.models(world.pool_of("one")) == {"one": "a"}
        world.remove("FineTuneJob", "tuned")
        world.add(a_job("tuned", "c"))
        world.settle()
        assert world.models(world.pool_of("one")) == {"one": "c"}

    def test_another_jobs_adapter_serves_on_until_the_new_one_is_there(self) -> None:
        world = World().add(a_job(), an_adep("one", job="tuned"))
        world.settle()
        world.edit("one", adapter={"jobRef": {"name": "next"}})
        world.settle()
        assert world.models(world.pool_of("one")) == {"one": "a"}
        assert world.ready("one")[:2] == ("False", "WaitingForJob")
        world.add(a_job("next", "b"))
        world.settle()
        assert world.models(world.pool_of("one")) == {"one": "b"}
        assert world.ready("one")[1] == "Starting"


class TestSupport:
    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            pytest.param({"mode": "Merged"}, "supported is Adapter", id="merged"),
            pytest.param({"rollout": {}}, "rollout", id="a rollout"),
            pytest.param({"autoscaling": {}}, "server.replicas", id="autoscaling"),
            pytest.param({"server": {"runtime": {"vllm": {}}}}, "supported are transformers and provider", id="vllm"),
            pytest.param(
                {"server": {"runtime": {"provider": {"openai": {}}}}},
                "leave it out to serve adapter.uri",
                id="a provider",
            ),
        ],
    )
    def test_what_is_not_there_yet_is_refused_with_a_sentence(self, spec: dict[str, Any], says: str) -> None:
        world = World().add(an_adep("one", **spec))
        world.settle()
        assert world.ready("one")[:2] == ("False", "Unsupported")
        assert says in world.ready("one")[2]
        assert world.is_stalled("one")
        assert world.pools() == []

    def test_an_object_that_cannot_be_read_stops_no_other(self) -> None:
        broken = an_adep("one")
        broken["spec"]["server"]["replicas"] = "many"
        world = World().add(broken, an_adep("two"))
        world.settle()
        assert world.ready("one")[1] == "Unsupported"
        assert "server.replicas" in world.ready("one")[2]
        assert world.models(world.pool_of("two")) == {"two": "a"}

    @pytest.mark.parametrize(
        ("account", "says"),
        [
            pytest.param(None, "does not exist", id="missing"),
            pytest.param({"metadata": {}}, "annotation finetune.dev/allow", id="not opened"),
        ],
    )
    def test_a_service_account_must_be_open_to_it(self, account: dict[str, Any] | None, says: str) -> None:
        world = World(uncached={"ServiceAccount/loader": account})
        world.add(an_adep("one", server={"serviceAccountName": "loader"}))
        world.settle()
        assert world.ready("one")[:2] == ("False", "NotAllowed")
        assert says in world.ready("one")[2]
        assert world.pools() == []

    def test_a_service_account_that_is_closed_again_stops_the_pods(self) -> None:
        world = World(uncached={"ServiceAccount/loader": {"metadata": {"annotations": {"finetune.dev/allow": "true"}}}})
        world.add(an_adep("one", server={"serviceAccountName": "loader"}))
        world.settle()
        assert len(world.pools()) == 1
        world.uncached = {"ServiceAccount/loader": {"metadata": {}}}
        world.settle()
        assert world.pools() == []
        assert world.ready("one")[1] == "NotAllowed"

    def test_an_edit_that_cannot_be_carried_out_takes_nothing_away(self) -> None:
        world = World().add(an_adep("one"))
        world.settle()
        before = world.adep("one")["status"]
        world.edit("one", mode="Merged", traffic={"model": "other"})
        world.settle()
        assert world.ready("one")[:2] == ("False", "Unsupported")
        assert world.models(world.pool_of("one")) == {"one": "a"}
        assert [body["metadata"]["name"] for body in world.cache.all("Service")] == ["one", before["pool"]]
        after = world.adep("one")["status"]
        assert {name for name in after if after[name] != before.get(name)} == {
            "conditions", "message", "observedGeneration", "state",
        }  # fmt: skip
