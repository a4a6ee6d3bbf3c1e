"""What gateways are told of a split, and when an AdapterDeployment with one is Ready."""

from typing import Any

import pytest

from finetune_api.v1alpha1.adapterdeployment import ShareStatus
from serving_builders import World, a_pod, an_adep, said

Weights = dict[str, int]


def traffic(sticky: str | None = None, **weights: int) -> dict[str, Any]:
    shares = [{"adapter": name, "weight": weight} for name, weight in weights.items()]
    return {"split": shares} | ({"stickyHeader": sticky} if sticky else {})


def told(world: World, name: str) -> list[dict[str, Any]]:
    """A deployment's split as its pool's gateways are told."""
    desired = world.reports.desired["team", world.pool_of(name)]
    adapter = next(each for each in desired.adapters if each.deployment == name)
    return [share.wire() for share in adapter.split or []]


def does(messages: dict[str, str] | None = None, **weights: int) -> list[ShareStatus]:
    """A gateway's word about a split."""
    messages = messages or {}
    return [ShareStatus(adapter=name, weight=weight, message=messages.get(name)) for name, weight in weights.items()]


class TestTold:
    def test_each_of_a_pool_keeps_its_own_split(self) -> None:
        world = World().add(
            an_adep("red", traffic=traffic("X-User", Base=50, Self=50)),
            an_adep("blue", "b", traffic=traffic(Self=90, red=10)),
            an_adep("gold", "c"),
        )
        world.settle()
        assert told(world, "red") == [{"adapter": "Base", "weight": 50}, {"adapter": "Self", "weight": 50}]
        assert told(world, "blue") == [{"adapter": "Self", "weight": 90}, {"adapter": "red", "weight": 10}]
        assert told(world, "gold") == []
        sticky = {
            each.deployment: each.sticky_header for each in world.reports.desired["team", world.pool_of("red")].adapters
        }
        assert sticky == {"red": "X-User", "blue": None, "gold": None}

    def test_a_split_and_its_change_touch_no_pod(self) -> None:
        world = World().add(an_adep("red"), an_adep("blue", "b"))
        world.settle()
        before = world.cache.get("Deployment", "team", world.pool_of("red"))
        world.edit("red", traffic=traffic(Self=50, blue=50))
        world.settle()
        assert told(world, "red")[1] == {"adapter": "blue", "weight": 50}
        assert world.cache.get("Deployment", "team", world.pool_of("red")) == before

    def test_one_of_another_pool_is_reached_through_its_service_once_it_answers(self) -> None:
        world = World().add(
            an_adep("red", traffic=traffic(Self=50, far=50)),
            an_adep("far", "b", server={"pool": "other"}, traffic={"model": "Far Bot"}),
        )
        world.settle()
        assert told(world, "red")[1]["message"] == "no pod of AdapterDeployment far answers"
        world.add(a_pod("there", world.pool_of("far")))
        world.report(world.pool_of("far"), "there", said("far", "b"))
        world.settle()
        assert told(world, "red")[1] == {
            "adapter": "far",
            "weight": 50,
            "url": "http://far.team.svc/v1",
            "model": "Far Bot",
        }

    def test_it_goes_on_being_reached_while_an_operator_that_has_just_started_hears_from_its_pods(self) -> None:
        world = World().add(
            an_adep("red", traffic=traffic(Self=50, far=50)), an_adep("far", "b", server={"pool": "other"})
        )
        world.settle()
        world.add(a_pod("there", world.pool_of("far")))
        world.report(world.pool_of("far"), "there", said("far", "b"))
        world.settle()
        before = told(world, "red")
        again = World(now=world.now)
        again.reports.since = again.now
        again.add(*(body for _, body in world.cache.kinds())).settle()
        assert told(again, "red") == before
        assert "url" in before[1]
        assert again.adep("far")["status"]["readyReplicas"] == 1

    def test_its_coming_and_going_wakes_the_pool_that_splits(self) -> None:
        world = World().add(an_adep("red", traffic=traffic(Self=50, far=50)))
        world.settle()
        assert told(world, "red")[1]["message"] == "AdapterDeployment far does not exist"
        world.add(an_adep("far", "b", server={"pool": "other"}))
        woken = world.keys("AdapterDeployment", "far")
        assert world.pool_of("red") in {key.name for key in woken if key.kind == "Pool"}
        world.settle()
        assert told(world, "red")[1]["message"] == "no pod of AdapterDeployment far answers"

    def test_one_that_cannot_be_served_is_named_with_its_reason(self) -> None:
        world = World().add(an_adep("red", traffic=traffic(Self=50, waits=50)), an_adep("waits", job="none", server={}))
        world.settle()
        message = told(world, "red")[1]["message"]
        assert message == "AdapterDeployment waits is not served: FineTuneJob none does not exist."

    def test_one_without_a_place_in_the_pool_is_named_with_its_reason(self) -> None:
        world = World().add(
            an_adep("red", traffic=traffic(Self=50, same=50)), an_adep("same", "b", traffic={"model": "red"})
        )
        world.settle()
        assert "Model name red is taken" in told(world, "red")[1]["message"]


class TestReady:
    @pytest.fixture
    def world(self) -> World:
        made = World().add(an_adep("red", traffic=traffic(Base=50, gold=50)))
        made.settle()
        for name in ("one", "two"):
            made.add(a_pod(name, made.pool_of("red")))
            made.report(made.pool_of("red"), name, said("red", split=does(Base=50, gold=50)))
        return made

    def test_every_pod_splits_as_asked(self, world: World) -> None:
        world.settle()
        assert world.ready("red")[:2] == ("True", "Serving")
        assert world.adep("red")["status"]["split"] == [
            {"adapter": "Base", "weight": 50},
            {"adapter": "gold", "weight": 50},
        ]

    def test_a_share_that_gets_nothing_is_said(self, world: World) -> None:
        split = does({"gold": "AdapterDeployment gold is not served by this pod"}, Base=50, gold=50)
        world.report(world.pool_of("red"), "two", said("red", split=split))
        world.settle()
        status, reason, message = world.ready("red")
        assert (status, reason) == ("False", "SplitIncomplete")
        assert message == (
            "Pod two sends nothing to gold (AdapterDeployment gold is not served by this pod); the other shares answer."
        )
        assert not world.is_stalled("red"), "it may be loaded yet"
        assert world.adep("red")["status"]["split"][1]["message"] == "AdapterDeployment gold is not served by this pod"
        assert world.adep("red")["status"]["readyReplicas"] == 2, "its own adapter answers everywhere"

    def test_a_share_of_nothing_may_be_missing(self, world: World) -> None:
        world.edit("red", traffic=traffic(Base=100, gold=0))
        for pod in ("one", "two"):
            split = does({"gold": "AdapterDeployment gold is not served by this pod"}, Base=100, gold=0)
            world.report(world.pool_of("red"), pod, said("red", split=split))
        world.settle()
        assert world.ready("red")[0] == "True"

    def test_a_new_split_is_not_ready_before_every_pod_has_taken_it_over(self, world: World) -> None:
        world.edit("red", traffic=traffic(Base=10, gold=90))
        world.report(world.pool_of("red"), "one", said("red", split=does(Base=10, gold=90)))
        world.settle()
        assert world.ready("red") == ("False", "Loading", "Pod two has not taken over traffic.split yet.")
        world.report(world.pool_of("red"), "two", said("red", split=does(Base=10, gold=90)))
        world.settle()
        assert world.ready("red")[0] == "True"
