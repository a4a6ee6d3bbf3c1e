"""When an AdapterDeployment is Ready, and what it says when it is not."""

from datetime import timedelta
from typing import Any

import pytest

from serving_builders import START, World, a_pod, an_adep, digest, said


@pytest.fixture
def world() -> World:
    """One AdapterDeployment, its pool made, no pod yet."""
    made = World().add(an_adep())
    made.settle()
    return made


def pods(world: World, *names: str, **how: Any) -> str:
    pool = world.pool_of("support")
    world.add(*(a_pod(name, pool, **how) for name in names))
    return pool


class TestReady:
    def test_every_ready_pod_answers_with_the_digest(self, world: World) -> None:
        pool = pods(world, "one", "two")
        world.report(pool, "one", said())
        world.report(pool, "two", said(), said("other", "b", state="Failed", reason="RankTooHigh", message="x"))
        world.settle()
        assert world.ready() == ("True", "Serving", "2 pods answer with this adapter.")
        status = world.adep("support")["status"]
        assert (status["state"], status["readyReplicas"], status["replicas"]) == ("Ready", 2, 2)
        assert status["url"] == "http://support.team.svc/v1"
        assert status["observedGeneration"] == 1
        assert status["pods"][0] == {"pod": "one", "state": "Loaded", "digest": digest()}

    def test_a_starting_pod_does_not_count(self, world: World) -> None:
        pool = pods(world, "one")
        pods(world, "two", ready=False)
        world.report(pool, "one", said())
        world.settle()
        assert world.ready()[0] == "True"
        assert world.adep("support")["status"]["readyReplicas"] == 1

    def test_a_pod_that_leaves_does_not_count(self, world: World) -> None:
        pool = pods(world, "one")
        leaving = a_pod("two", pool)
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
        world.add(leaving)
        world.report(pool, "one", said())
        world.settle()
        assert world.ready()[0] == "True"

    @pytest.mark.parametrize(
        ("second", "reason", "says"),
        [
            pytest.param(None, "Loading", "Pod two is loading", id="a pod that said nothing"),
            pytest.param(said(state="Loading", digest=None), "Loading", "Pod two is loading", id="a pod that loads"),
            pytest.param(
                said(letter="b"), "Loading", f"{digest('b')} still serves", id="a pod asked for an older digest"
            ),
            pytest.param(
                said(state="Failed", digest=None, reason="RankTooHigh", message="rank 128, at most 64"),
                "RankTooHigh",
                "rank 128, at most 64",
                id="a pod that refused it",
            ),
            pytest.param(
                said(serving="b", state="Failed", reason="DigestMismatch", message="found x, expected y"),
                "DigestMismatch",
                f"The earlier adapter {digest('b')} still serves.",
                id="a pod that still serves the earlier one",
            ),
        ],
    )
    def test_one_ready_pod_without_it_is_enough_not_to_be(
        self, world: World, second: Any, reason: str, says: str
    ) -> None:
        pool = pods(world, "one", "two")
        world.report(pool, "one", said())
        if second is not None:
            world.report(pool, "two", second)
        world.settle()
        status, found, message = world.ready()
        assert (status, found) == ("False", reason)
        assert says in message
        assert world.adep("support")["status"]["readyReplicas"] == 1
        assert world.is_stalled() == (reason in ("RankTooHigh", "DigestMismatch"))

    def test_a_new_digest_is_not_ready_before_it_is_loaded(self, world: World) -> None:
        pool = pods(world, "one")
        world.report(pool, "one", said())
        world.settle()
        world.edit("support", adapter={"uri": "s3://models/support", "digest": digest("b")})
        world.settle()
        assert world.ready()[:2] == ("False", "Loading")
        world.report(pool, "one", said(letter="b"))
        world.settle()
        assert world.ready()[0] == "True"

    def test_the_transition_time_moves_only_with_the_status(self, world: World) -> None:
        before = condition_of(world)["lastTransitionTime"]
        world.now += timedelta(minutes=1)
        pods(world, "one")
        world.settle()
        assert condition_of(world)["reason"] == "Loading"
        assert condition_of(world)["lastTransitionTime"] == before

    def test_ready_and_failed_are_events_progress_is_not_repeated(self, world: World) -> None:
        pool = pods(world, "one")
        world.report(pool, "one", said())
        events = [event for plan in world.sync() for event in plan.events]
        assert [(event.type, event.reason) for event in events] == [("Normal", "Serving")]
        assert [event for plan in world.sync() for event in plan.events] == []
        world.report(pool, "one", said(state="Failed", reason="StorageUnavailable", message="no answer"))
        events = [event for plan in world.sync() for event in plan.events]
        assert [(event.type, event.reason) for event in events] == [("Warning", "StorageUnavailable")]


def condition_of(world: World, type_: str = "Ready") -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in world.adep("support")["status"]["conditions"] if c["type"] == type_)
    return found


class TestOperatorRestart:
    def restarted(self, world: World) -> World:
        """An operator that has just come up, with what the API server has."""
        again = World(now=START + timedelta(hours=1))
        again.reports.since = again.now
        return again.add(*(body for _, body in world.cache.kinds()))

    def serving(self, world: World) -> str:
        pool = pods(world, "one")
        world.report(pool, "one", said())
        world.settle()
        return pool

    def test_the_last_ready_stays_until_pods_had_time_to_report(self, world: World) -> None:
        self.serving(world)
        again = self.restarted(world)
        again.now += timedelta(seconds=29)
        plans = again.sync()
        assert again.ready()[0] == "True"
        assert any(plan.requeue_after for plan in plans), "looks again by itself"
        again.now += timedelta(seconds=2)
        again.settle()
        assert again.ready()[:2] == ("False", "Loading")

    def test_a_report_counts_at_once(self, world: World) -> None:
        pool = self.serving(world)
        again = self.restarted(world)
        again.report(pool, "one", said(state="Failed", digest=None, reason="ServerError", message="broken"))
        again.settle()
        assert again.ready()[:2] == ("False", "ServerError")

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"adapter": {"uri": "s3://models/support", "digest": digest("b")}}, id="another digest"),
            pytest.param({"traffic": {"model": "bot"}}, id="another name"),
        ],
    )
    def test_what_was_said_about_another_spec_does_not_stay(self, world: World, change: dict[str, Any]) -> None:
        self.serving(world)
        again = self.restarted(world)
        again.edit("support", **change)
        again.settle()
        assert again.ready()[:2] == ("False", "Loading")

    def test_without_a_ready_pod_nothing_stays(self, world: World) -> None:
        self.serving(world)
        again = self.restarted(world)
        again.remove("Pod", "one")
        again.settle()
        assert again.ready()[:2] == ("False", "Starting")


def waiting(name: str, reason: str, message: str) -> dict[str, Any]:
    return {"name": name, "image": f"{name}:1", "state": {"waiting": {"reason": reason, "message": message}}}


class TestTrouble:
    @pytest.mark.parametrize(
        ("status", "says"),
        [
            pytest.param(
                {"containerStatuses": [waiting("gateway", "ImagePullBackOff", "Back-off pulling")]},
                ["gateway:1", "Back-off pulling"],
                id="an image that cannot be pulled",
            ),
            pytest.param(
                {
                    "initContainerStatuses": [
                        waiting("fetch", "CrashLoopBackOff", "back-off 10s")
                        | {
                            "lastState": {
                                "terminated": {
                                    "exitCode": 13,
                                    "message": '{"code": "ModelNotFound", "message": "s3://m/b does not exist"}',
                                }
                            }
                        }
                    ]
                },
                ["fetch", "ModelNotFound: s3://m/b does not exist"],
                id="a base that cannot be fetched, in the program's own words",
            ),
            pytest.param(
                {"initContainerStatuses": [{"name": "server", "image": "t:1", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
                ["server", "more memory than its limit"],
                id="a server that needs more memory",
            ),
            pytest.param(
                {"conditions": [{"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}]},
                ["cannot be scheduled", "Insufficient cpu"],
                id="no node with room",
            ),
        ],
    )  # fmt: skip
    def test_a_pod_that_cannot_start_says_why(self, world: World, status: dict[str, Any], says: list[str]) -> None:
        pods(world, "one", ready=False, phase="Pending", **status)
        world.settle()
        _, reason, message = world.ready()
        assert reason == "PodNotStarting"
        assert [part for part in says if part not in message] == []

    def test_a_pod_that_may_not_be_created_says_why(self, world: World) -> None:
        deployment = world.cache.get("Deployment", "team", world.pool_of("support"))
        assert deployment is not None
        failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}
        meta = {**deployment["metadata"], "resourceVersion": "9999"}
        world.add({**deployment, "metadata": meta, "status": {"conditions": [failure]}})
        world.settle()
        assert world.ready()[1:] == ("PodNotStarting", "The pod cannot be created: exceeded quota: small")

    @pytest.mark.parametrize(("seconds", "reason"), [(19, "Starting"), (21, "PodNotStarting")])
    def test_warning_events_are_read_once_a_pod_is_late(self, world: World, seconds: int, reason: str) -> None:
        world.now = START + timedelta(seconds=seconds)
        world.uncached["Event/one"] = [
            {"involvedObject": {"kind": "Pod", "name": "one"}, "message": "MountVolume failed", "lastTimestamp": "2"},
        ]
        pods(world, "one", ready=False, phase="Pending")
        world.settle()
        assert world.ready()[1] == reason
        assert ("MountVolume failed" in world.ready()[2]) == (reason == "PodNotStarting")

    def test_a_pod_that_starts_is_no_trouble(self, world: World) -> None:
        creating = {"name": "fetch", "image": "o", "state": {"waiting": {"reason": "PodInitializing"}}}
        pods(world, "one", ready=False, initContainerStatuses=[creating])
        world.settle()
        assert world.ready()[1] == "Starting"
