"""Traffic splits: shares as asked for, sticky where asked, nothing to what is not loaded, each public name its own."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from unittest import mock

import pytest

from finetune_api.pods import ADAPTER_HEADER, DesiredAdapter, DesiredShare
from finetune_gateway import wiring
from finetune_gateway.split import pick
from gateway_stage import ModelServer, Stage, stage

REQUESTS = 1000
SIGMAS = 4
"""A right share lies beyond it once in 16,000 draws; draws and keys are the same in each run."""


def assert_shares(found: Mapping[str, int], weights: Mapping[str, int]) -> None:
    """Counts of REQUESTS draws lie within binomial bounds."""
    assert sum(found.values()) == REQUESTS
    for name, weight in weights.items():
        share = weight / 100
        bound = SIGMAS * math.sqrt(REQUESTS * share * (1 - share))
        assert abs(found.get(name, 0) - REQUESTS * share) <= bound, (name, found)


class TestPick:
    WEIGHTS: ClassVar = {"Base": 70, "Self": 25, "gold": 5, "none": 0}

    @pytest.mark.parametrize("keyed", [True, False])
    def test_shares_are_as_asked(self, keyed: bool) -> None:
        random = Random(7)
        found = Counter(pick(self.WEIGHTS, "bot", f"user-{n}" if keyed else None, random) for n in range(REQUESTS))
        assert_shares({str(name): count for name, count in found.items()}, self.WEIGHTS)

    def test_a_key_stays_where_it_is_unless_it_must_move(self) -> None:
        before = {n: pick({"Base": 50, "Self": 50}, "bot", str(n), Random(1)) for n in range(REQUESTS)}
        after = {n: pick({"Base": 40, "Self": 60}, "bot", str(n), Random(2)) for n in range(REQUESTS)}
        moved = {(before[n], after[n]) for n in before if before[n] != after[n]}
        assert moved == {("Base", "Self")}
        assert 60 < sum(before[n] != after[n] for n in before) < 140, "a tenth"

    def test_keys_of_a_share_that_falls_out_spread_and_the_others_stay(self) -> None:
        for n in range(REQUESTS):
            whole = pick({"Base": 50, "Self": 25, "gold": 25}, "bot", str(n), Random(1))
            without = pick({"Base": 50, "Self": 25}, "bot", str(n), Random(1))
            assert whole in ("gold", without)

    def test_splits_of_two_names_are_independent(self) -> None:
        weights = {"Base": 50, "Self": 50}
        same = sum(
            pick(weights, "a", str(n), Random(1)) == pick(weights, "b", str(n), Random(1)) for n in range(REQUESTS)
        )
        assert 440 < same < 560

    def test_nothing_that_weighs_something_is_nobody(self) -> None:
        assert pick({"Base": 0}, "bot", None, Random(1)) is None
        assert pick({}, "bot", "key", Random(1)) is None


def split(desired: DesiredAdapter, sticky_header: str | None = None, **weights: int) -> DesiredAdapter:
    shares = [DesiredShare(adapter=name, weight=weight) for name, weight in weights.items()]
    return desired.model_copy(update={"split": shares, "sticky_header": sticky_header})


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Stage]:
    """A gateway that draws the same in each run."""
    with mock.patch.object(wiring, "Random", return_value=Random(7)):
        async with stage(tmp_path) as made:
            yield made


async def asked(running: Stage, model: str, headers: Mapping[str, str] | None = None, **body: Any) -> tuple[str, str]:
    """The server's name of the model that answered, and the share named in the answer."""
    wish = {"model": model, "prompt": "x", **body}
    async with running.http.post(f"{running.url}/v1/completions", json=wish, headers=headers) as response:
        answer = await response.json()
        assert response.status == 200, answer
        assert answer["model"] == model
        return answer["choices"][0]["text"], response.headers.get(ADAPTER_HEADER, "")


def shares_of(running: Stage, name: str) -> dict[str, str | None]:
    """What the last report says against a deployment's shares."""
    said = next(each for each in running.operator.reports[-1].adapters if each.deployment == name)
    return {share.adapter: share.message for share in said.split or []}


class TestShares:
    async def test_a_thousand_requests_are_split_as_asked(self, running: Stage) -> None:
        wished = split(running.adapter("bot", "a"), Base=20, Self=50, gold=30)
        running.wish(wished, running.adapter("gold", "b"))
        await running.until_loaded(bot="a", gold="b")
        found: Counter[tuple[str, str]] = Counter()
        for _ in range(REQUESTS // 50):
            found.update(await asyncio.gather(*(asked(running, "bot") for _ in range(50))))
        assert set(found) == {("base", "Base"), ("bot-aaaaaaaaaaaa", "Self"), ("gold-bbbbbbbbbbbb", "gold")}
        assert_shares({share: count for (_, share), count in found.items()}, {"Base": 20, "Self": 50, "gold": 30})
        assert 'finetune_gateway_split_requests_total{adapter="gold",model="bot"}' in (await running.get("/metrics"))[1]

    async def test_the_same_header_always_gets_the_same_answerer(self, running: Stage) -> None:
        running.wish(split(running.adapter("bot", "a"), "X-Session", Base=50, Self=50))
        await running.until_loaded(bot="a")
        first = {n: await asked(running, "bot", {"X-Session": f"s{n}"}) for n in range(20)}
        assert len(set(first.values())) == 2
        for _ in range(3):
            assert {n: await asked(running, "bot", {"x-session": f"s{n}"}) for n in range(20)} == first

    async def test_without_the_header_the_user_decides_and_without_both_a_draw(self, running: Stage) -> None:
        running.wish(split(running.adapter("bot", "a"), "X-Session", Base=50, Self=50))
        await running.until_loaded(bot="a")
        users = {n: await asked(running, "bot", user=f"u{n}") for n in range(20)}
        assert len(set(users.values())) == 2
        assert {n: await asked(running, "bot", user=f"u{n}") for n in range(20)} == users
        header = await asked(running, "bot", {"X-Session": "s"})
        assert {await asked(running, "bot", {"X-Session": "s"}, user=f"u{n}") for n in range(20)} == {header}
        assert len({await asked(running, "bot") for _ in range(20)}) == 2

    async def test_two_names_of_a_pool_keep_a_split_each(self, running: Stage) -> None:
        red = split(running.adapter("red", "a"), Base=100, Self=0)
        blue = split(running.adapter("blue", "b"), red=100)
        running.wish(red, blue)
        await running.until_loaded(red="a", blue="b")
        assert {await asked(running, "red") for _ in range(10)} == {("base", "Base")}
        assert {await asked(running, "blue") for _ in range(10)} == {("red-aaaaaaaaaaaa", "red")}, "red's own adapter"

    async def test_a_change_restarts_and_loads_nothing(self, running: Stage) -> None:
        running.wish(split(running.adapter("bot", "a"), Base=100))
        await running.until_loaded(bot="a")
        before = len(running.server.seen)
        running.wish(split(running.adapter("bot", "a"), Self=100))
        await running.until("taken over", lambda: set(shares_of(running, "bot")) == {"Self"})
        assert len(running.server.seen) == before, "no adapter was tried again"
        assert await asked(running, "bot") == ("bot-aaaaaaaaaaaa", "Self")
        running.wish(running.adapter("bot", "a"))
        await running.until("no split any more", lambda: shares_of(running, "bot") == {})
        assert await asked(running, "bot") == ("bot-aaaaaaaaaaaa", "")

    async def test_a_client_can_ask_for_the_deployments_own_adapter(self, running: Stage) -> None:
        running.wish(split(running.adapter("bot", "a"), Base=100))
        await running.until_loaded(bot="a")
        assert await asked(running, "bot", {ADAPTER_HEADER: "Self"}) == ("bot-aaaaaaaaaaaa", "")
        assert ADAPTER_HEADER not in running.server.headers[-1]


class TestNotLoaded:
    async def test_it_gets_nothing_is_reported_and_gets_its_share_once_it_is_loaded(self, running: Stage) -> None:
        bot = split(running.adapter("bot", "a"), Base=50, gold=50)
        running.wish(bot)
        await running.until_loaded(bot="a")
        assert {await asked(running, "bot") for _ in range(20)} == {("base", "Base")}
        assert shares_of(running, "bot") == {"Base": None, "gold": "AdapterDeployment gold is not served by this pod"}
        running.wish(bot, running.adapter("gold", "b", r=128))
        await running.until_failed("gold")
        assert {await asked(running, "bot") for _ in range(20)} == {("base", "Base")}
        assert "rank 128" in (shares_of(running, "bot")["gold"] or "")
        running.wish(bot, running.adapter("gold", "c"))
        await running.until_loaded(gold="c")
        assert shares_of(running, "bot") == {"Base": None, "gold": None}
        assert {await asked(running, "bot") for _ in range(20)} == {("base", "Base"), ("gold-cccccccccccc", "gold")}

    async def test_the_name_answers_while_its_own_adapter_cannot(self, running: Stage) -> None:
        running.wish(split(running.adapter("bot", "a", r=128), Base=50, Self=50))
        await running.until_failed("bot")
        assert {await asked(running, "bot") for _ in range(10)} == {("base", "Base")}
        assert "rank 128" in (shares_of(running, "bot")["Self"] or "")
        assert [card["id"] for card in (await running.get("/v1/models"))[1]["data"]] == ["base", "bot"]

    async def test_when_no_share_can_answer_the_client_is_told_why(self, running: Stage) -> None:
        running.wish(split(running.adapter("bot", "a"), gold=100, Base=0))
        await running.until_loaded(bot="a")
        status, body = await running.post(model="bot", prompt="x")
        assert (status, body["error"]["code"]) == (503, "model_unavailable")
        assert "gold is not served" in body["error"]["message"]
        assert [card["id"] for card in (await running.get("/v1/models"))[1]["data"]] == ["base"]


class TestOtherPools:
    async def test_a_share_can_lead_to_the_gateways_of_another_pool(self, running: Stage) -> None:
        other = ModelServer(models={"Gold"})
        await other.start()
        try:
            share = DesiredShare(adapter="gold", weight=100, url=f"http://127.0.0.1:{other.port}/v1", model="Gold")
            running.wish(running.adapter("bot", "a").model_copy(update={"split": [share]}))
            await running.until_loaded(bot="a")
            assert await asked(running, "bot") == ("Gold", "gold")
            assert other.headers[-1][ADAPTER_HEADER] == "Self", "its own adapter, whatever its split"
            other.models = set()
            status, body = await running.post(model="bot", prompt="x")
            assert (status, body["error"]["code"]) == (503, "model_unavailable")
            assert "AdapterDeployment gold does not serve it" in body["error"]["message"]
        finally:
            await other.stop()
        status, body = await running.post(model="bot", prompt="x")
        assert (status, body["error"]["code"]) == (503, "server_unavailable")
        assert "AdapterDeployment gold does not answer" in body["error"]["message"]

    async def test_what_the_operator_knows_against_a_share_counts(self, running: Stage) -> None:
        share = DesiredShare(adapter="gold", weight=50, message="AdapterDeployment gold does not exist")
        own = DesiredShare(adapter="Self", weight=50)
        running.wish(running.adapter("bot", "a").model_copy(update={"split": [share, own]}))
        await running.until_loaded(bot="a")
        assert {await asked(running, "bot") for _ in range(10)} == {("bot-aaaaaaaaaaaa", "Self")}
        assert shares_of(running, "bot") == {"gold": "AdapterDeployment gold does not exist", "Self": None}
