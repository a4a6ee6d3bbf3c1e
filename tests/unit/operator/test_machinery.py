"""The machinery under the decisions: cache, queue, watching, settings. No API server: its part is played in place."""

import asyncio
from itertools import islice

import pytest

from api_server_stand_in import Server, stored
from builders import SETTINGS, World, a_job
from finetune_operator import workers
from finetune_operator.cache import Cache
from finetune_operator.cluster import path
from finetune_operator.plan import Key, Sources
from finetune_operator.settings import from_environment
from finetune_operator.watch import Backoffs, Watch
from finetune_operator.workers import Workers

# cache


def test_an_older_state_never_replaces_a_newer_one() -> None:
    cache = Cache()
    assert cache.store("FineTuneJob", stored("9"))
    assert not cache.store("FineTuneJob", stored("8", generation=7))
    assert cache.get("FineTuneJob", "team", "bot") == stored("9")


def test_another_incarnation_of_a_name_is_another_object() -> None:
    cache = Cache()
    cache.store("FineTuneJob", stored("9", uid="new"))
    assert not cache.remove("FineTuneJob", stored("8", uid="old"))
    assert cache.get("FineTuneJob", "team", "bot") is not None


def test_children_are_found_by_label_while_they_carry_it() -> None:
    cache = Cache()
    labels = {"finetune.dev/job-uid": "u"}
    cache.store("Job", stored("1", labels=labels))
    assert len(cache.labelled("Job", "team", "finetune.dev/job-uid", "u")) == 1
    cache.store("Job", stored("2"))
    assert cache.labelled("Job", "team", "finetune.dev/job-uid", "u") == []


# the queue


class Recorder:
    """Works on keys and remembers how."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.running: list[Key] = []
        self.done: list[Key] = []
        self.together = 0
        self.errors = 0

    async def sync(self, key: Key) -> float | None:
        assert key not in self.running, "two workers on one key"
        self.running.append(key)
        self.together = max(self.together, len(self.running))
        await asyncio.sleep(self.seconds)
        self.running.remove(key)
        self.done.append(key)
        if self.errors:
            self.errors -= 1
            raise RuntimeError("once")
        return None

    async def failed(self, key: Key, error: Exception, failures: int) -> None:
        pass


def a_key(number: int) -> Key:
    return Key("FineTuneJob", "team", str(number))


async def until(recorder: Recorder, count: int) -> None:
    async with asyncio.timeout(5):
        while len(recorder.done) < count:  # noqa: ASYNC110 - the recorder is the code under test's, not ours to signal
            await asyncio.sleep(0.005)


async def test_keys_run_beside_each_other_and_each_alone() -> None:
    recorder, queue = Recorder(0.02), Workers()
    task = asyncio.create_task(queue.run(recorder.sync, recorder.failed, 4))
    for number in range(4):
        queue.wake(a_key(number))
    await asyncio.sleep(0.01)
    queue.wake(a_key(0))  # while it is worked on
    queue.wake(a_key(0))
    await until(recorder, 5)
    assert recorder.together > 1
    assert recorder.done.count(a_key(0)) == 2, "woken while worked on: once more, not twice"
    task.cancel()


async def test_of_several_planned_looks_the_earliest_stays() -> None:
    recorder, queue = Recorder(), Workers()
    task = asyncio.create_task(queue.run(recorder.sync, recorder.failed, 1))
    queue.wake(a_key(1), 30)
    queue.wake(a_key(1), 0.02)
    queue.wake(a_key(1), 60)
    await until(recorder, 1)
    task.cancel()


async def test_an_error_is_tried_again_and_stops_no_other_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FIRST_BACKOFF", 0.02)
    recorder, queue = Recorder(), Workers()
    recorder.errors = 1
    task = asyncio.create_task(queue.run(recorder.sync, recorder.failed, 1))
    queue.wake(a_key(1))
    queue.wake(a_key(2))
    await until(recorder, 3)
    assert recorder.done == [a_key(1), a_key(2), a_key(1)]
    task.cancel()


def test_backoff_grows_and_ends_at_thirty_seconds() -> None:
    assert all(0.25 <= workers.backoff(1) <= 0.5 for _ in range(20))
    assert all(15 <= workers.backoff(50) <= 30 for _ in range(20))


def test_kopf_never_gives_up() -> None:
    delays = list(islice(Backoffs(), 500))
    assert max(delays) <= 15
    assert min(delays[10:]) >= 7


# watching


async def test_what_vanished_in_a_gap_of_the_watch_is_dropped() -> None:
    world = World(a_job("gone"), a_job("there"))
    woken: list[Key] = []
    sources = Sources(SETTINGS, world.cache, world.reports, {})
    watch = Watch(Server(world.get("FineTuneJob", "there")), sources, woken.append)  # type: ignore[arg-type]
    await watch.compare("FineTuneJob")
    assert [body["metadata"]["name"] for body in world.cache.all("FineTuneJob")] == ["there"]
    assert woken == [Key("FineTuneJob", "team", "gone")]


def test_a_job_wakes_those_that_wait_for_it() -> None:
    world = World(a_job("base"), a_job("tuned", baseModel={"jobRef": {"name": "base"}}))
    woken: list[Key] = []
    watch = Watch(Server(), Sources(SETTINGS, world.cache, world.reports, {}), woken.append)  # type: ignore[arg-type]
    watch.seen(
        "FineTuneJob",
        {
            **world.get("FineTuneJob", "base"),
            "metadata": {**world.get("FineTuneJob", "base")["metadata"], "resourceVersion": "99"},
        },
    )
    assert {key.name for key in woken if key.kind == "FineTuneJob"} == {"base", "tuned"}


# addresses and settings


def test_paths() -> None:
    assert path("Pod", "team", "a") == "/api/v1/namespaces/team/pods/a"
    assert (
        path("FineTuneJob", "team", "a", "status")
        == "/apis/finetune.dev/v1alpha1/namespaces/team/finetunejobs/a/status"
    )
    assert path("TokenReview") == "/apis/authentication.k8s.io/v1/tokenreviews"


def test_settings_say_what_is_missing_or_wrong() -> None:
    with pytest.raises(ValueError, match="FINETUNE_OPERATOR_IMAGE"):
        from_environment({"FINETUNE_TRAINER_IMAGE": "t"})
    images = {"FINETUNE_TRAINER_IMAGE": "t", "FINETUNE_OPERATOR_IMAGE": "o"}
    with pytest.raises(ValueError, match="FINETUNE_CONCURRENCY must be a number, not 'many'"):
        from_environment({**images, "FINETUNE_CONCURRENCY": "many"})
    settings = from_environment({**images, "FINETUNE_WATCH_NAMESPACES": "a, b"})
    assert settings.watch_namespaces == ("a", "b")
