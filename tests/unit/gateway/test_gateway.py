"""The whole gateway against stand-ins: loading, switching, refusing, losing, reporting, passing on."""

import asyncio
import json
import shutil
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from finetune_gateway.server import ModelServer
from gateway_stage import Stage, a_pool, digest, stage


async def answered_by(running: Stage, model: str) -> str:
    """The server's name of the model that answers, after checking that the answer carries the public one."""
    status, body = await running.post(model=model, prompt="x")
    assert (status, body.get("model")) == (200, model), body
    return str(body["choices"][0]["text"])


async def public_models(running: Stage) -> list[str]:
    status, body = await running.get("/v1/models")
    assert status == 200
    return [card["id"] for card in body["data"]]


class TestLoading:
    async def test_an_adapter_is_loaded_tried_and_named(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a", model="Support Bot"))
        await running.until_loaded(support="a")
        assert await answered_by(running, "Support Bot") == "support-aaaaaaaaaaaa"
        assert await public_models(running) == ["base", "Support Bot"]
        tried = [seen["model"] for seen in running.server.seen if seen.get("max_tokens") == 1]
        assert tried == ["base", "support-aaaaaaaaaaaa"], "one token from the base and from the adapter"
        assert running.operator.reports[-1].adapters[0].load_seconds is not None

    async def test_a_new_digest_takes_over_and_the_old_one_is_unloaded(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        running.wish(running.adapter("support", "b"))
        await running.until_loaded(support="b")
        assert await answered_by(running, "support") == "support-bbbbbbbbbbbb"
        await running.until("unloaded", lambda: running.server.models == {"base", "support-bbbbbbbbbbbb"})
        folders = running.folder / "adapters"
        await running.until("deleted", lambda: [path.name for path in folders.iterdir()] == ["support-bbbbbbbbbbbb"])

    async def test_a_request_under_way_keeps_the_old_one_loaded(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        slow = asyncio.create_task(running.post(model="support", prompt="wait"))
        await running.until("under way", lambda: running.server.seen[-1].get("prompt") == "wait")
        running.wish(running.adapter("support", "b"))
        await running.until_loaded(support="b")
        await asyncio.sleep(1)  # it looks for what to unload every 0.2 s here
        assert "support-aaaaaaaaaaaa" in running.server.models
        running.server.hold.set()
        assert await slow == (200, {"model": "support", "choices": [{"text": "support-aaaaaaaaaaaa"}]})
        await running.until("unloaded", lambda: running.server.models == {"base", "support-bbbbbbbbbbbb"})

    async def test_a_failed_load_keeps_the_old_one_serving(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        running.wish(running.adapter("support", "b", r=128))
        await running.until_failed("support")
        said = running.operator.reports[-1].adapters[0]
        assert (said.desired_digest, said.digest, said.reason) == (digest("b"), digest("a"), "RankTooHigh")
        assert said.message is not None
        assert "rank 128" in said.message
        assert "at most 64" in said.message
        assert await answered_by(running, "support") == "support-aaaaaaaaaaaa"

    async def test_the_servers_refusal_is_reported_in_its_own_words(self, running: Stage) -> None:
        running.server.refuse["support-aaaaaaaaaaaa"] = "target modules {'x_proj'} not found in the base model"
        running.wish(running.adapter("support", "a"))
        await running.until_failed("support")
        said = running.operator.reports[-1].adapters[0]
        assert said.reason == "AdapterInvalid"
        assert "x_proj" in (said.message or "")
        status, body = await running.post(model="support", prompt="x")
        assert status == 503
        assert "x_proj" in body["error"]["message"]

    async def test_an_adapter_that_an_earlier_request_has_loaded_is_no_bad_one(self, running: Stage) -> None:
        running.server.late.add("support-aaaaaaaaaaaa")
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        assert await answered_by(running, "support") == "support-aaaaaaaaaaaa"

    async def test_one_bad_adapter_blocks_no_other(self, running: Stage) -> None:
        running.wish(running.adapter("bad", "a", peft_type="IA3"), running.adapter("good", "b"))
        await running.until_loaded(good="b")
        await running.until("ready", lambda: running.operator.reports[-1].ready)
        assert await public_models(running) == ["base", "good"]

    async def test_a_deleted_adapter_is_unloaded(self, running: Stage) -> None:
        running.wish(running.adapter("one", "a"), running.adapter("two", "b"))
        await running.until_loaded(one="a", two="b")
        running.wish(running.adapter("two", "b"))
        await running.until("unloaded", lambda: running.server.models == {"base", "two-bbbbbbbbbbbb"})
        assert await answered_by(running, "two") == "two-bbbbbbbbbbbb"
        status, body = await running.post(model="one", prompt="x")
        assert (status, body["error"]["code"]) == (404, "model_not_found")

    async def test_a_new_public_name_loads_nothing_again(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a", model="old"))
        await running.until_loaded(support="a")
        before = len(running.server.seen)
        running.wish(running.adapter("support", "a", model="new"))
        await running.until("renamed", lambda: named(running, ["base", "new"]))
        assert len(running.server.seen) == before


async def named(running: Stage, models: list[str]) -> bool:
    return await public_models(running) == models


class TestServerRestart:
    async def test_adapters_are_loaded_again(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        await running.server.restart()
        status, body = await running.post(model="support", prompt="x")
        assert (status, body["error"]["code"]) == (503, "model_unavailable"), "known, so not a 404"
        await running.until("back", lambda: answers(running, "support"))
        assert await answered_by(running, "support") == "support-aaaaaaaaaaaa"

    async def test_adapters_come_back_from_disk(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        shutil.rmtree(running.folder / "stored")
        await running.server.restart()
        await running.until("back", lambda: answers(running, "support"))

    async def test_the_earlier_adapter_comes_back_when_the_newest_cannot_be_served(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        running.wish(running.adapter("support", "b", r=128))
        await running.until_failed("support")
        await running.server.restart()
        running.operator.reports.clear()
        await running.until("back", lambda: answers(running, "support"))
        assert await answered_by(running, "support") == "support-aaaaaaaaaaaa"
        await running.until_failed("support")
        said = running.operator.reports[-1].adapters[0]
        assert (said.desired_digest, said.digest, said.reason) == (digest("b"), digest("a"), "RankTooHigh")

    async def test_a_busy_server_is_no_reason_to_refuse_an_adapter(self, running: Stage) -> None:
        running.server.busy = ["support-aaaaaaaaaaaa"]
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        assert not running.server.busy

    async def test_the_pod_is_not_ready_while_the_server_is_away(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        await running.until("ready", lambda: is_status(running, "/readyz", 200))
        await running.server.stop()
        status, body = await running.post(model="base", prompt="x")
        assert (status, body["error"]["code"]) == (503, "server_unavailable")
        await running.until("not ready", lambda: is_status(running, "/readyz", 503))
        assert (await running.get("/healthz"))[0] == 200
        running.server.models = {"base"}
        await running.server.start()
        await running.until("ready again", lambda: is_status(running, "/readyz", 200))
        assert await answered_by(running, "support") == "support-aaaaaaaaaaaa"

    @pytest.mark.parametrize("answer", ["<html>", "[]", '{"data": [{}]}', '{"data": null}'])
    async def test_a_server_whose_models_nobody_can_read_is_as_good_as_away(
        self, running: Stage, answer: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def unreadable(request: web.Request) -> web.Response:
            return web.Response(text=answer)

        await running.until("ready", lambda: reachable(running))
        monkeypatch.setattr(running.server, "list_models", unreadable)
        await running.server.restart()
        await running.until("not ready", lambda: is_status(running, "/readyz", 503))
        monkeypatch.undo()
        await running.server.restart()
        await running.until("ready again", lambda: is_status(running, "/readyz", 200))

    async def test_a_load_that_fails_as_nobody_foresaw_leaves_nothing_behind(
        self, running: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def load(self: ModelServer, name: str, path: Path) -> None:
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr(ModelServer, "load", load)
        running.wish(running.adapter("support", "a"))
        await running.until_failed("support")
        running.wish()
        folders = running.folder / "adapters"
        await running.until("deleted", lambda: list(folders.iterdir()) == [])


async def is_status(running: Stage, path: str, status: int) -> bool:
    return (await running.get(path))[0] == status


async def answers(running: Stage, model: str) -> bool:
    return (await running.post(model=model, prompt="x"))[0] == 200


class TestOperatorAway:
    async def test_the_mounted_file_counts_until_the_first_reply(self, tmp_path: Path) -> None:
        async with stage(tmp_path) as running:
            wanted = a_pool(running.adapter("support", "a"))
            (tmp_path / "pool.json").write_text(json.dumps(wanted.wire()))
            await running.until_loaded(support="a")
            running.wish()
            await running.until("emptied by the reply", lambda: running.server.models == {"base"})
            running.operator.desired = None
            await running.until("asked again", lambda: len(running.operator.reports) > 3)
            assert running.server.models == {"base"}, "the file is older than the reply"

    async def test_the_last_reply_goes_on_counting(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        running.operator.desired = None
        said = len(running.operator.reports)
        await running.until("two more reports", lambda: len(running.operator.reports) > said + 1)
        assert await answered_by(running, "support") == "support-aaaaaaaaaaaa"
        assert running.operator.tokens == {"Bearer secret-token"}

    async def test_it_serves_without_anyone_to_report_to(self, tmp_path: Path) -> None:
        async with stage(tmp_path, report=False) as running:
            await running.until("ready", lambda: reachable(running))
            assert await public_models(running) == ["base"]


async def reachable(running: Stage) -> bool:
    try:
        return await is_status(running, "/readyz", 200)
    except aiohttp.ClientConnectionError:
        return False


class TestClients:
    async def test_events_stream_through_renamed_before_the_answer_ends(self, running: Stage) -> None:
        running.wish(running.adapter("support", "a"))
        await running.until_loaded(support="a")
        body = {"model": "support", "prompt": "x", "stream": True}
        async with running.http.post(f"{running.url}/v1/completions", json=body) as response:
            assert response.content_type == "text/event-stream"
            lines = [await response.content.readline() for _ in range(3)]
            assert [json.loads(line[6:]) for line in lines[::2]] == [
                {"model": "support", "n": 0},
                {"model": "support", "n": 1},
            ]
            running.server.hold.set()
            assert (await response.content.read()).endswith(b'{"model": "support", "n": 2}\n\ndata: [DONE]\n\n')

    @pytest.mark.parametrize("body", [{"prompt": "wait"}, {"prompt": "x", "stream": True}], ids=["whole", "stream"])
    async def test_a_client_that_leaves_ends_the_servers_work(self, running: Stage, body: dict[str, object]) -> None:
        await running.until("ready", lambda: reachable(running))
        request = asyncio.create_task(running.post(model="base", **body))
        await running.until("under way", lambda: running.server.seen[-1].get("prompt") == body["prompt"])
        request.cancel()
        await running.until("aborted", lambda: running.server.aborted == 1)

    async def test_a_server_that_breaks_off_is_an_error_event(self, running: Stage) -> None:
        await running.until("ready", lambda: reachable(running))
        body = {"model": "base", "prompt": "x", "stream": True}
        async with running.http.post(f"{running.url}/v1/completions", json=body) as response:
            await response.content.readline()
            await running.server.stop()
            rest = await response.content.read()
        assert b"[DONE]" not in rest
        assert json.loads(rest.strip().rpartition(b"data: ")[2])["error"]["code"] == "server_unavailable"

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/v1/load_lora_adapter", 404),
            ("POST", "/v1/unload_lora_adapter", 404),
            ("POST", "/v1/completions/../load_lora_adapter", 404),
            ("POST", "/v1/completions/%2e%2e/load_lora_adapter", 404),
            ("GET", "/v1/completions", 405),
            ("GET", "/v1/models/none", 404),
        ],
    )
    async def test_nothing_else_can_be_reached(self, running: Stage, method: str, path: str, status: int) -> None:
        await running.until("ready", lambda: reachable(running))
        async with running.http.request(method, running.url + path, json={}) as response:
            assert response.status == status
            assert (await response.json())["error"]["type"] == "invalid_request_error"

    async def test_wrong_requests_are_answered_in_openais_shape(self, running: Stage) -> None:
        await running.until("ready", lambda: reachable(running))
        assert (await running.post(prompt="x"))[0] == 400
        status, body = await running.post(model="other", prompt="x")
        assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")
        assert "base" in body["error"]["message"]
        status, body = await running.post(model="base", prompt="x" * (11 * 1024 * 1024))
        assert (status, body["error"]["type"]) == (413, "invalid_request_error")

    async def test_headers_of_the_connection_and_credentials_stay_here(self, running: Stage) -> None:
        await running.until("ready", lambda: reachable(running))
        sent = {"Authorization": "Bearer user", "X-Request-Id": "7", "Accept-Encoding": "gzip", "TE": "trailers"}
        body = {"model": "base", "prompt": "x"}
        async with running.http.post(f"{running.url}/v1/completions", json=body, headers=sent) as response:
            await response.read()
        seen = running.server.headers[-1]
        assert seen["X-Request-Id"] == "7"
        assert seen["Accept-Encoding"] == "identity"
        assert "Authorization" not in seen
        assert "TE" not in seen

    async def test_requests_are_counted_by_public_name(self, running: Stage) -> None:
        running.wish(running.adapter("counted", "a"))
        await running.until_loaded(counted="a")
        await answered_by(running, "counted")
        _, text = await running.get("/metrics")
        assert 'finetune_gateway_requests_total{code="200",model="counted"} 1.0' in text
        assert "counted-aaaaaaaaaaaa" not in text
