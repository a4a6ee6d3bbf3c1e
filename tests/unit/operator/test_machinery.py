"""The machinery under the decisions: cache, queue, acting, watching, settings. No API server: its part is played in place."""

import asyncio
from itertools import islice
from typing import Any

import pytest

import serving_builders as serving
from builders import SETTINGS, World, a_job
from finetune_operator import act, workers
from finetune_operator.act import Actor, contains, event_manifest, merge_patch
from finetune_operator.cache import Cache
from finetune_operator.cluster import ApiError, path
from finetune_operator.plan import Event, Key, Plan, Ref, Sources, StatusWrite, ref_of
from finetune_operator.reports import ReportStore
from finetune_operator.settings import from_environment
from finetune_operator.watch import Backoffs, Watch
from finetune_operator.workers import Workers


def stored(version: str, **meta: Any) -> dict[str, Any]:
    body = a_job()
    return {**body, "metadata": {**body["metadata"], "resourceVersion": version, **meta}}


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


# acting


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


class Server:
    """The API server's part for an Actor: keeps objects, refuses outdated patches."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self.bodies = {(body["kind"], body["metadata"]["name"]): body for body in bodies}
        self.patches: list[Any] = []
        self.applied: list[Any] = []

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        return self.bodies.get((ref.kind, ref.name))

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        key = (manifest["kind"], manifest["metadata"]["name"])
        if key in self.bodies:
            raise ApiError(409, "exists")
        self.bodies[key] = manifest
        return manifest

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        meta = {**manifest["metadata"], "resourceVersion": str(len(self.applied) + 1)}
        self.applied.append({**manifest, "metadata": meta})
        return self.applied[-1]

    async def patch_status(self, ref: Ref, status: Any, version: str) -> dict[str, Any]:
        body = self.bodies[ref.kind, ref.name]
        if body["metadata"]["resourceVersion"] != version:
            raise ApiError(409, "outdated")
        self.patches.append(status)
        return {**body, "metadata": {**body["metadata"], "resourceVersion": str(int(version) + 1)}, "status": status}

    async def list_all(self, kind: str, namespace: str | None, *, metadata_only: bool = False) -> list[Any]:
        return [body for (known, _), body in self.bodies.items() if known == kind]


def an_actor(server: Server, *known: dict[str, Any]) -> tuple[Actor, Cache]:
    cache = Cache()
    for body in known:
        cache.store(body["kind"], body)
    sources = Sources(SETTINGS, cache, ReportStore(since=act.utc_now()), {})
    return Actor(server, sources, lambda kind, body: cache.store(kind, body) or None), cache  # type: ignore[arg-type]


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
