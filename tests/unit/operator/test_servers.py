"""The report server and the probes over HTTP; the API server's answer to a TokenReview is played."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from builders import SETTINGS, World
from finetune_api.pods import POOL_REPORT_PATH, REPORT_AUDIENCE, DesiredPool, PoolReport
from finetune_api.v1alpha1.references import ModelRef
from finetune_operator import probes
from finetune_operator.cluster import ApiError
from finetune_operator.plan import Key, Sources
from finetune_operator.report_server import ReportServer
from finetune_operator.watch import Watch

PATH = POOL_REPORT_PATH.format(namespace="team", name="pool-1")
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "server-0", "namespace": "team", "uid": "pod-uid", "labels": {"finetune.dev/pool": "pool-1"}},
}
EXTRA = {
    "authentication.kubernetes.io/pod-name": ["server-0"],
    "authentication.kubernetes.io/pod-uid": ["pod-uid"],
}
VALID: dict[str, Any] = {
    "authenticated": True,
    "audiences": [REPORT_AUDIENCE],
    "user": {"username": "system:serviceaccount:team:default", "extra": EXTRA},
}


class Reviewer:
    """The API server's TokenReview."""

    def __init__(self, status: Any = VALID) -> None:
        self.status = status
        self.asked = 0

    async def review_token(self, token: str, audience: str) -> Any:
        self.asked += 1
        if isinstance(self.status, Exception):
            raise self.status
        return self.status


class Setup:
    """A report server with one known server pod."""

    def __init__(self) -> None:
        self.world = World(POD)
        self.reviewer = Reviewer()
        self.woken: list[Key] = []
        sources = Sources(SETTINGS, self.world.cache, self.world.reports, {})
        server = ReportServer(self.reviewer, sources, self.woken.append)  # type: ignore[arg-type]
        self.client = TestClient(TestServer(server.application()))

    async def post(self, ready: bool = True, pod: str = "server-0", path: str = PATH) -> tuple[int, Any]:
        body = PoolReport(pod=pod, ready=ready, adapters=[]).wire()
        async with self.client.post(path, json=body, headers={"Authorization": "Bearer t"}) as response:
            return response.status, await response.text()


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    found = Setup()
    async with found.client:
        yield found


async def test_the_reply_to_a_pool_is_what_it_shall_serve(setup: Setup) -> None:
    status, _ = await setup.post()
    assert status == 503, "nothing is known yet"
    desired = DesiredPool(namespace="team", pool="pool-1", base_model=ModelRef(uri="s3://models/base"), adapters=[])
    setup.world.reports.desire("team", "pool-1", desired)
    status, text = await setup.post()
    assert (status, DesiredPool.model_validate_json(text)) == (200, desired)


async def test_the_same_report_again_wakes_nobody_and_asks_no_second_review(setup: Setup) -> None:
    for _ in range(3):
        await setup.post()
    assert setup.woken == [Key("Pool", "team", "pool-1")]
    await setup.post(ready=False)
    assert len(setup.woken) == 2
    assert setup.reviewer.asked == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param({"authenticated": False}, 401, id="not a token"),
        pytest.param({"audiences": ["https://kubernetes.default.svc"]}, 401, id="another audience"),
        pytest.param(
            {"user": {"username": "system:serviceaccount:other:default", "extra": EXTRA}}, 403, id="another namespace"
        ),
        pytest.param({"user": {"username": "system:serviceaccount:team:default"}}, 403, id="a token without a pod"),
        pytest.param(
            {"user": {**VALID["user"], "extra": {**EXTRA, "authentication.kubernetes.io/pod-uid": ["old"]}}},
            403,
            id="an earlier pod of that name",
        ),
    ],
)
async def test_others_are_refused(setup: Setup, change: Any, status: int) -> None:
    setup.reviewer.status = {**VALID, **change}
    assert (await setup.post())[0] == status
    assert setup.woken == []


async def test_a_pod_speaks_for_itself_and_its_pool_only(setup: Setup) -> None:
    assert (await setup.post(pod="server-1"))[0] == 403
    assert (await setup.post(path=PATH.replace("pool-1", "pool-2")))[0] == 403


async def test_a_review_that_cannot_be_had_is_tried_again_later(setup: Setup) -> None:
    setup.reviewer.status = ApiError(500, "down")
    assert (await setup.post())[0] == 503
    setup.reviewer.status = VALID
    setup.world.reports.desire("team", "pool-1", None)
    assert "nothing is known" in (await setup.post())[1]


@pytest.mark.parametrize(
    ("listed", "silent", "health", "ready"),
    [(False, 0.0, 200, 503), (True, 0.0, 200, 200), (True, 1000.0, 500, 200), (False, 1000.0, 200, 503)],
)
async def test_probes(listed: bool, silent: float, health: int, ready: int) -> None:
    world = World()
    sources = Sources(SETTINGS, world.cache, world.reports, {})
    watch = Watch(Reviewer(), sources, lambda key: None)  # type: ignore[arg-type]
    watch.listed = listed
    watch.beat = time.monotonic() - silent
    async with TestClient(TestServer(probes.application(watch, sources))) as client:
        assert (await client.get("/healthz")).status == health
        assert (await client.get("/readyz")).status == ready
        assert "finetune_api_calls" in await (await client.get("/metrics")).text()
