"""What clients and the operator hear when a provider fails."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from finetune_gateway import provider_adapter
from finetune_gateway.provider import MAX_SENTENCE
from gateway_stage import Stage
from provided_gateway import HELLO, MODELS, client, of_provider, openai_stage, ready, vertex_stage
from provider_stage import KEY, OpenAIService, Provider, VertexService

ERRORS = [
    pytest.param(401, openai.AuthenticationError, id="401"),
    pytest.param(403, openai.PermissionDeniedError, id="403"),
    pytest.param(404, openai.NotFoundError, id="404"),
    pytest.param(429, openai.RateLimitError, id="429"),
    pytest.param(500, openai.InternalServerError, id="500"),
    pytest.param(503, openai.InternalServerError, id="503"),
]
BODIES = {
    "openai": {"error": {"message": "as the provider put it", "type": "t", "param": None, "code": "its_code"}},
    "vertex": {"error": {"code": 1, "message": "as the provider put it", "status": "ITS_CODE"}},
}


class TestFailures:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(("status", "error"), ERRORS)
    async def test_the_client_gets_the_providers_status_and_sentence(
        self, both: tuple[str, Provider, Stage], status: int, error: type[openai.APIStatusError], stream: bool
    ) -> None:
        name, service, running = both
        service.fault = (status, BODIES[name], {"Retry-After": "7", "Set-Cookie": "a=b"})
        async with client(running) as asked:
            with pytest.raises(error) as caught:
                await asked.chat.completions.create(model="bot", messages=HELLO, stream=stream)
        assert caught.value.status_code == status
        body: Any = caught.value.body
        assert body["message"] == f"The provider at 127.0.0.1:{service.port} answered {status}: as the provider put it"
        assert body["code"] == {"openai": "its_code", "vertex": "ITS_CODE"}[name]
        assert caught.value.response.headers["Retry-After"] == "7"
        assert "Set-Cookie" not in caught.value.response.headers

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_dropped_connection_is_502(self, both: tuple[str, Provider, Stage], stream: bool) -> None:
        _, service, running = both
        service.is_dropping = True
        async with client(running) as asked:
            with pytest.raises(openai.InternalServerError, match="does not answer") as caught:
                await asked.chat.completions.create(model="bot", messages=HELLO, stream=stream)
        assert caught.value.status_code == 502
        assert caught.value.code == "provider_unavailable"

    async def test_nobody_listening_is_502(self, both: tuple[str, Provider, Stage]) -> None:
        _, service, running = both
        await service.stop()
        async with client(running) as asked:
            with pytest.raises(openai.InternalServerError, match="does not answer"):
                await asked.chat.completions.create(model="bot", messages=HELLO)
        await service.start()

    async def test_a_stream_that_breaks_off_is_an_error_and_never_a_normal_end(
        self, both: tuple[str, Provider, Stage]
    ) -> None:
        _, service, running = both
        service.breaks_off = True
        async with client(running) as asked:
            stream = await asked.chat.completions.create(model="bot", messages=HELLO, stream=True)
            with pytest.raises(openai.APIError, match="does not answer"):
                _ = [chunk async for chunk in stream]

    @pytest.mark.parametrize("said", ["<html>Bad gateway</html>", "[1]"])
    async def test_something_that_is_no_answer_is_502(self, both: tuple[str, Provider, Stage], said: str) -> None:
        _, service, running = both
        service.fault = (200, said, {})
        async with client(running) as asked:
            with pytest.raises(openai.InternalServerError, match="not JSON"):
                await asked.chat.completions.create(model="bot", messages=HELLO)

    @pytest.mark.parametrize("said", ['{"choices": [{"message": {"content": "whole"}}]}', "<html>Hello</html>", ""])
    async def test_no_stream_where_one_was_asked_for_is_502(self, both: tuple[str, Provider, Stage], said: str) -> None:
        _, service, running = both
        service.fault = (200, said, {})
        async with client(running) as asked:
            with pytest.raises(openai.InternalServerError, match="was asked for a stream of events") as caught:
                await asked.chat.completions.create(model="bot", messages=HELLO, stream=True)
        assert caught.value.status_code == 502

    async def test_a_redirect_is_not_followed(self, both: tuple[str, Provider, Stage]) -> None:
        _, service, running = both
        service.fault = (307, "elsewhere", {"Location": f"http://127.0.0.1:{service.port}/stolen"})
        before = len(service.paths)
        async with client(running) as asked:
            with pytest.raises(openai.InternalServerError, match="answered 307"):
                await asked.chat.completions.create(model="bot", messages=HELLO)
        assert len(service.paths) == before + 1

    async def test_a_page_as_an_error_is_cut_to_a_sentence(self, both: tuple[str, Provider, Stage]) -> None:
        _, service, running = both
        service.fault = (502, "<html>" + "x" * 10_000, {})
        async with client(running) as asked:
            with pytest.raises(openai.InternalServerError) as caught:
                await asked.chat.completions.create(model="bot", messages=HELLO)
        assert len(str(caught.value.body["message"])) < 1000

    async def test_a_quoted_key_is_blotted_out_where_the_sentence_is_cut_too(self, tmp_path: Path) -> None:
        service = OpenAIService()
        async with openai_stage(tmp_path, service) as running:
            await ready(running, of_provider("bot", "ft:tuned"))
            service.fault = (401, {"error": {"message": "x" * (MAX_SENTENCE - 5) + KEY}}, {})
            async with client(running) as asked:
                with pytest.raises(openai.AuthenticationError) as caught:
                    await asked.chat.completions.create(model="bot", messages=HELLO)
        said: Any = caught.value.body
        assert said["message"].endswith("xxx…")


class TestReported:
    @pytest.mark.parametrize(
        ("status", "reason"),
        [(401, "AccessDenied"), (403, "AccessDenied"), (404, "ProviderError"), (429, "ProviderError")],
    )
    async def test_a_probe_that_fails_is_reported_and_tried_again(
        self, tmp_path: Path, status: int, reason: str
    ) -> None:
        service = OpenAIService(fault=(status, BODIES["openai"], {}))
        async with openai_stage(tmp_path, service) as running:
            running.wish(of_provider("bot", "ft:tuned"))
            await running.until_failed("bot")
            said = running.operator.reports[-1].adapters[0]
            assert (said.reason, said.digest) == (reason, None)
            sentence = f"The provider at 127.0.0.1:{service.port} answered {status}: as the provider put it"
            assert said.message == sentence
            await running.until("ready: it was tried", lambda: running.operator.reports[-1].ready)
            async with client(running) as asked:
                with pytest.raises(openai.APIStatusError) as caught:
                    await asked.chat.completions.create(model="bot", messages=HELLO)
            assert caught.value.status_code == status, "clients get the provider's own word meanwhile"
            service.fault = None
            await ready(running, of_provider("bot", "ft:tuned"))

    async def test_a_clients_failure_leads_to_another_try(
        self, both: tuple[str, Provider, Stage], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, service, running = both
        service.fault = (401, BODIES[name], {})
        async with client(running) as asked:
            with pytest.raises(openai.AuthenticationError):
                await asked.chat.completions.create(model="bot", messages=HELLO)
            await asyncio.sleep(0.5)
            assert running.operator.reports[-1].adapters[0].state == "Loaded", "not at once: tries are billed"
            monkeypatch.setattr(provider_adapter, "DOUBT_SECONDS", 0)
            with pytest.raises(openai.AuthenticationError):
                await asked.chat.completions.create(model="bot", messages=HELLO)
        await running.until_failed("bot")
        said = running.operator.reports[-1].adapters[0]
        assert (said.reason, said.digest) == ("AccessDenied", None)

    async def test_what_a_client_does_wrong_is_no_reason_to_doubt(
        self, both: tuple[str, Provider, Stage], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, service, running = both
        monkeypatch.setattr(provider_adapter, "DOUBT_SECONDS", 0)
        for status in (400, 422, 429):
            service.fault = (status, BODIES[name], {})
            async with client(running) as asked:
                with pytest.raises(openai.APIStatusError):
                    await asked.chat.completions.create(model="bot", messages=HELLO)
        seen = len(service.seen)
        await asyncio.sleep(0.3)
        assert len(service.seen) == seen

    @pytest.mark.parametrize("kind", ["openai", "vertex"])
    async def test_a_missing_secret_is_named_and_found_once_it_is_there(self, tmp_path: Path, kind: str) -> None:
        service: Any = OpenAIService() if kind == "openai" else VertexService()
        made = openai_stage if kind == "openai" else vertex_stage
        key = {"openai": "OPENAI_API_KEY", "vertex": "credentials.json"}[kind]
        async with made(tmp_path, service) as running:
            file = tmp_path / "secrets" / "provider" / key
            text = file.read_text()
            file.unlink()
            running.wish(of_provider("bot", MODELS[kind]))
            await running.until_failed("bot")
            said = running.operator.reports[-1].adapters[0]
            assert said.reason == "SecretNotFound"
            assert f"Secret 'provider' has no key {key}" in (said.message or "")
            file.write_text(text)
            await ready(running, of_provider("bot", MODELS[kind]))
