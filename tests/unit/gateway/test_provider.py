"""A pool in front of a provider, asked by the official client; the provider is a stand-in that follows its REST reference."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from finetune_api.pods import ADAPTER_HEADER, DesiredAdapter, DesiredPool, DesiredShare
from finetune_api.v1alpha1.adapterdeployment import OpenAIProvider, ProviderRuntime, VertexProvider
from finetune_api.v1alpha1.references import SecretRef
from finetune_gateway import provider_adapter
from gateway_stage import Stage, stage
from provider_stage import KEY, OpenAIService, Provider, VertexService

SECRET = SecretRef(name="provider")
HELLO: Any = [{"role": "user", "content": "Hello there"}]


def of_provider(deployment: str, provider_model: str, **more: Any) -> DesiredAdapter:
    """A wish for a provider's model."""
    digest = f"sha256:{sha256(provider_model.encode()).hexdigest()}"
    known = {"model": deployment, "provider_model": provider_model, "digest": digest}
    return DesiredAdapter.model_validate({"deployment": deployment, **known, **more})


def a_pool(provider: ProviderRuntime, secret: SecretRef | None = SECRET) -> DesiredPool:
    return DesiredPool(namespace="team", pool="default-1", provider=provider, secret_ref=secret, adapters=[])


@asynccontextmanager
async def openai_stage(folder: Path, service: OpenAIService, **settings: Any) -> AsyncIterator[Stage]:
    """A gateway in front of OpenAI's API, with the tenant's key."""
    await service.start()
    secret = folder / "secrets" / SECRET.name
    secret.mkdir(parents=True)
    (secret / "OPENAI_API_KEY").write_text(KEY + "\n")
    known = {"base_url": service.base_url, "base_model": "gpt-base"}
    pool = a_pool(ProviderRuntime(openai=OpenAIProvider(**(known | settings))))
    async with stage(folder, pool=pool) as running:
        yield running
    await service.stop()


@asynccontextmanager
async def vertex_stage(folder: Path, service: VertexService) -> AsyncIterator[Stage]:
    """A gateway in front of Vertex AI, with a service account of the tenant's."""
    await service.start()
    service.write_credentials(folder / "secrets" / SECRET.name)
    vertex = VertexProvider(project="acme", location="us-central1", base_url=service.base_url, base_model="gemini-base")
    async with stage(folder, pool=a_pool(ProviderRuntime(vertex=vertex))) as running:
        yield running
    await service.stop()


MODELS = {"openai": "ft:tuned", "vertex": "projects/acme/locations/us-central1/endpoints/123"}
SAID = {"openai": "ft:tuned to Hello there", "vertex": "123 to Hello there"}


@pytest.fixture(params=["openai", "vertex"])
async def both(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[str, Provider, Stage]]:
    """Each provider with its gateway; the deployment bot answers."""
    service: Any = OpenAIService() if request.param == "openai" else VertexService()
    made = openai_stage if request.param == "openai" else vertex_stage
    async with made(tmp_path, service) as running:
        await ready(running, of_provider("bot", MODELS[request.param]))
        yield request.param, service, running


async def ready(running: Stage, *wishes: DesiredAdapter) -> None:
    """The deployments are loaded, and clients may come."""
    running.wish(*wishes)
    names = {wish.deployment for wish in wishes}

    def loaded() -> bool:
        last = running.operator.reports[-1] if running.operator.reports else None
        return last is not None and last.ready and {a.deployment for a in last.adapters if a.state == "Loaded"} == names

    await running.until("loaded", loaded)


def client(running: Stage) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{running.url}/v1", api_key="the clients own", max_retries=0)


class TestAnswers:
    async def test_models_are_listed(self, both: tuple[str, Provider, Stage]) -> None:
        async with client(both[2]) as asked:
            assert [model.id async for model in asked.models.list()] == ["base", "bot"]
            assert (await asked.models.retrieve("bot")).id == "bot"

    async def test_chats(self, both: tuple[str, Provider, Stage]) -> None:
        name, _, running = both
        async with client(running) as asked:
            answer = await asked.chat.completions.create(model="bot", messages=HELLO)
            base = await asked.chat.completions.create(model="base", messages=HELLO)
        assert (answer.model, answer.object) == ("bot", "chat.completion")
        choice = answer.choices[0]
        assert (choice.message.content, choice.message.role, choice.finish_reason) == (SAID[name], "assistant", "stop")
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 3
        assert base.model == "base"
        assert "base to Hello there" in (base.choices[0].message.content or "")

    async def test_chats_stream(self, both: tuple[str, Provider, Stage]) -> None:
        name, _, running = both
        async with client(running) as asked:
            stream = await asked.chat.completions.create(model="bot", messages=HELLO, stream=True)
            chunks = [chunk async for chunk in stream]
        assert {(chunk.model, chunk.object) for chunk in chunks} == {("bot", "chat.completion.chunk")}
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == SAID[name]
        assert chunks[-1].choices[0].finish_reason == "stop"

    async def test_completions_whole_and_streamed(self, both: tuple[str, Provider, Stage]) -> None:
        name, _, running = both
        expected = {"openai": "ft:tuned on Hello there", "vertex": SAID["vertex"]}[name]
        async with client(running) as asked:
            whole = await asked.completions.create(model="bot", prompt="Hello there", max_tokens=8)
            stream = await asked.completions.create(model="bot", prompt="Hello there", max_tokens=8, stream=True)
            chunks = [chunk async for chunk in stream]
        assert (whole.model, whole.object, whole.choices[0].text) == ("bot", "text_completion", expected)
        assert {(chunk.model, chunk.object) for chunk in chunks} == {("bot", "text_completion")}
        assert "".join(chunk.choices[0].text for chunk in chunks) == expected

    async def test_a_model_that_is_not_served_is_not_asked_for(self, both: tuple[str, Provider, Stage]) -> None:
        _, service, running = both
        before = len(service.seen)
        async with client(running) as asked:
            with pytest.raises(openai.NotFoundError, match="there are: base, bot"):
                await asked.chat.completions.create(model="ft:tuned", messages=HELLO)
        assert len(service.seen) == before, "a client must not spend the tenant's money on any model"

    async def test_the_probe_is_one_token_through_the_own_listener(self, both: tuple[str, Provider, Stage]) -> None:
        name, service, running = both
        assert len(service.seen) == 1
        limit = service.seen[0].get("max_tokens") or service.seen[0]["generationConfig"]["maxOutputTokens"]
        assert limit == 1, name
        assert running.operator.reports[-1].adapters[0].digest is not None

    async def test_a_new_model_takes_over_and_one_that_fails_does_not(self, both: tuple[str, Provider, Stage]) -> None:
        name, _, running = both
        base = {"openai": "gpt-base", "vertex": "google/gemini-base"}[name]
        running.wish(of_provider("bot", "nothing-of-that-name"))
        await running.until_failed("bot")
        said = running.operator.reports[-1].adapters[0]
        assert said.digest == of_provider("bot", MODELS[name]).digest, "the earlier one still answers"
        async with client(running) as asked:
            answer = await asked.chat.completions.create(model="bot", messages=HELLO)
            assert answer.choices[0].message.content == SAID[name]
            await ready(running, of_provider("bot", base))
            answer = await asked.chat.completions.create(model="bot", messages=HELLO)
            assert "base to Hello there" in (answer.choices[0].message.content or "")

    async def test_one_that_is_deleted_is_gone(self, both: tuple[str, Provider, Stage]) -> None:
        running = both[2]
        running.wish()
        await running.until("gone", lambda: running.operator.reports[-1].adapters == [])
        async with client(running) as asked:
            with pytest.raises(openai.NotFoundError):
                await asked.chat.completions.create(model="bot", messages=HELLO)


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
        assert len(str(caught.value.body["message"])) < 1000  # type: ignore[index]


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


class TestOpenAI:
    async def test_the_key_is_the_tenants_and_the_clients_headers_stay_here(self, tmp_path: Path) -> None:
        service = OpenAIService()
        async with openai_stage(tmp_path, service) as running:
            await ready(running, of_provider("bot", "ft:tuned"))
            async with client(running) as asked:
                raw = await asked.chat.completions.with_raw_response.create(
                    model="bot", messages=HELLO, extra_headers={"Cookie": "c=1", "X-Internal": "team"}
                )
            sent = service.headers[-1]
            assert sent["Authorization"] == f"Bearer {KEY}"
            assert not {"Cookie", "X-Internal"} & set(sent)
            assert not {"Set-Cookie", "Openai-Organization"} & set(raw.headers)
            (tmp_path / "secrets" / "provider" / "OPENAI_API_KEY").write_text("renewed")
            service.key = "renewed"
            async with client(running) as asked:
                await asked.chat.completions.create(model="bot", messages=HELLO)

    async def test_the_account_is_the_secrets(self, tmp_path: Path) -> None:
        service = OpenAIService()
        async with openai_stage(tmp_path, service) as running:
            (tmp_path / "secrets" / "provider" / "OPENAI_ORG_ID").write_text("org-1")
            (tmp_path / "secrets" / "provider" / "OPENAI_PROJECT_ID").write_text("proj-1")
            await ready(running, of_provider("bot", "ft:tuned"))
        sent = service.headers[-1]
        assert (sent["OpenAI-Organization"], sent["OpenAI-Project"]) == ("org-1", "proj-1")

    async def test_a_private_authority_is_the_secrets(self, tmp_path: Path) -> None:
        service = OpenAIService()
        service.write_certificate(tmp_path)
        async with openai_stage(tmp_path, service) as running:
            running.wish(of_provider("bot", "ft:tuned"))
            await running.until_failed("bot")
            assert "certificate" in (running.operator.reports[-1].adapters[0].message or "")
            bundle = tmp_path / "secrets" / "provider" / "CA_BUNDLE"
            bundle.write_text((tmp_path / "certificate.pem").read_text())
            await ready(running, of_provider("bot", "ft:tuned"))

    async def test_a_key_that_the_provider_quotes_is_not_passed_on(self, tmp_path: Path) -> None:
        service = OpenAIService(key="another")
        async with openai_stage(tmp_path, service) as running:
            service.fault = (401, {"error": {"message": f"no such key: {KEY}"}}, {})
            running.wish(of_provider("bot", "ft:tuned"))
            await running.until_failed("bot")
            assert KEY not in running.operator.reports[-1].model_dump_json()
            assert KEY not in str(await running.post("/v1/chat/completions", model="bot", messages=HELLO))

    async def test_every_parameter_goes_there_as_it_is(self, tmp_path: Path) -> None:
        service = OpenAIService()
        async with openai_stage(tmp_path, service) as running:
            await ready(running, of_provider("bot", "ft:tuned"))
            more = {
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "logit_bias": {"1": 2},
                "unknown": {"x": 1},
            }
            await running.post("/v1/chat/completions", model="bot", messages=HELLO, **more)
            assert service.seen[-1] == {"model": "ft:tuned", "messages": HELLO, **more}

    async def test_a_model_that_only_chats_is_asked_as_a_chat(self, tmp_path: Path) -> None:
        service = OpenAIService(has_completions=False)
        async with openai_stage(tmp_path, service, completions="Chat") as running:
            await ready(running, of_provider("bot", "ft:tuned"))
            async with client(running) as asked:
                answer = await asked.completions.create(model="bot", prompt="Hello there", stop=["x"])
                with pytest.raises(openai.BadRequestError, match="`echo` is not supported: this model only chats"):
                    await asked.completions.create(model="bot", prompt="x", echo=True)
                with pytest.raises(openai.BadRequestError, match="must be one text"):
                    await asked.completions.create(model="bot", prompt=["x", "y"])
            assert answer.choices[0].text == "ft:tuned to Hello there"
            assert service.seen[-1] == {"model": "ft:tuned", "messages": HELLO, "max_tokens": 16, "stop": ["x"]}

    async def test_completions_of_a_model_that_only_chats_are_the_providers_404_otherwise(self, tmp_path: Path) -> None:
        async with openai_stage(tmp_path, OpenAIService(has_completions=False)) as running:
            await ready(running, of_provider("bot", "ft:tuned"))
            async with client(running) as asked:
                with pytest.raises(openai.NotFoundError, match="chat model and not supported"):
                    await asked.completions.create(model="bot", prompt="x")

    async def test_models_that_think_are_tried_with_their_own_limit(self, tmp_path: Path) -> None:
        service = OpenAIService(wants_completion_tokens=True)
        async with openai_stage(tmp_path, service) as running:
            await ready(running, of_provider("bot", "ft:tuned"))
            assert service.seen[-1]["max_completion_tokens"] == 16

    async def test_without_a_secret_no_key_is_sent(self, tmp_path: Path) -> None:
        service = OpenAIService()
        await service.start()
        pool = a_pool(ProviderRuntime(openai=OpenAIProvider(base_url=service.base_url)), secret=None)
        async with stage(tmp_path, pool=pool) as running:
            running.wish(of_provider("bot", "ft:tuned"))
            await running.until_failed("bot")
            assert "Authorization" not in service.headers[-1]
            assert (await running.get("/v1/models"))[1]["data"] == [], "no base, and what does not answer is not listed"
        await service.stop()


class TestVertex:
    async def test_the_request_in_geminis_words(self, tmp_path: Path) -> None:
        service = VertexService()
        async with vertex_stage(tmp_path, service) as running:
            await ready(running, of_provider("bot", "123"))
            messages: Any = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                {"role": "assistant", "content": "Hi"},
                {"role": "user", "content": "there"},
            ]
            async with client(running) as asked:
                await asked.chat.completions.create(
                    model="bot",
                    messages=messages,
                    temperature=0.5,
                    top_p=0.9,
                    max_completion_tokens=7,
                    stop="x",
                    seed=3,
                    n=1,
                    presence_penalty=0.1,
                    frequency_penalty=0.2,
                    response_format={"type": "json_object"},
                    user="u",
                )
        assert service.paths[-1] == "/v1/projects/acme/locations/us-central1/endpoints/123:generateContent"
        assert service.seen[-1] == {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Hello"}]},
                {"role": "model", "parts": [{"text": "Hi"}]},
                {"role": "user", "parts": [{"text": "there"}]},
            ],
            "generationConfig": {
                "temperature": 0.5,
                "topP": 0.9,
                "maxOutputTokens": 7,
                "stopSequences": ["x"],
                "seed": 3,
                "candidateCount": 1,
                "presencePenalty": 0.1,
                "frequencyPenalty": 0.2,
                "responseMimeType": "application/json",
            },
        }

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "`tools` is not supported"),
            ({"logprobs": True}, "`logprobs` is not supported"),
            ({"logit_bias": {"1": 2}}, "`logit_bias` is not supported"),
            ({"response_format": {"type": "json_schema"}}, "`response_format` must have the type"),
            ({"messages": []}, "not empty"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "the role of a message must be one of"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "must be text"),
        ],
    )
    async def test_what_it_cannot_say_is_refused_by_name(self, tmp_path: Path, more: dict[str, Any], says: str) -> None:
        service = VertexService()
        async with vertex_stage(tmp_path, service) as running:
            await ready(running, of_provider("bot", "123"))
            before = len(service.seen)
            for stream in (False, True):
                body = {"model": "bot", "messages": HELLO, "stream": stream} | more
                status, answer = await running.post("/v1/chat/completions", **body)
                assert status == 400
                assert says in answer["error"]["message"]
            assert len(service.seen) == before

    async def test_usage_comes_last_where_it_is_asked_for_and_counts_thoughts(self, tmp_path: Path) -> None:
        async with vertex_stage(tmp_path, VertexService()) as running:
            await ready(running, of_provider("bot", "123"))
            async with client(running) as asked:
                stream = await asked.chat.completions.create(
                    model="bot", messages=HELLO, stream=True, stream_options={"include_usage": True}
                )
                chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 6)

    async def test_a_blocked_prompt_is_a_content_filter(self, tmp_path: Path) -> None:
        service = VertexService()
        async with vertex_stage(tmp_path, service) as running:
            await ready(running, of_provider("bot", "123"))
            service.blocks = "SAFETY"
            async with client(running) as asked:
                with pytest.raises(openai.BadRequestError, match="does not answer this prompt: SAFETY") as caught:
                    await asked.chat.completions.create(model="bot", messages=HELLO)
        assert caught.value.code == "content_filter"

    async def test_one_token_serves_many_requests_and_refused_credentials_are_401(self, tmp_path: Path) -> None:
        service = VertexService()
        async with vertex_stage(tmp_path, service) as running:
            await ready(running, of_provider("bot", "123"))
            async with client(running) as asked:
                for _ in range(3):
                    await asked.chat.completions.create(model="bot", messages=HELLO)
            assert len(service.tokens) == 1
            service.refuses_tokens = True
            service.write_credentials(tmp_path / "secrets" / "provider")
            async with client(running) as asked:
                with pytest.raises(openai.AuthenticationError, match="Google refused the credentials"):
                    await asked.chat.completions.create(model="bot", messages=HELLO)

    async def test_credentials_that_are_none_are_said(self, tmp_path: Path) -> None:
        async with vertex_stage(tmp_path, VertexService()) as running:
            (tmp_path / "secrets" / "provider" / "credentials.json").write_text("{}")
            running.wish(of_provider("bot", "123"))
            await running.until_failed("bot")
            said = running.operator.reports[-1].adapters[0]
            assert said.reason == "AccessDenied"
            assert "no usable identity for Vertex AI" in (said.message or "")


class TestSplit:
    async def test_between_base_own_and_another_pools(self, both: tuple[str, Provider, Stage]) -> None:
        name, _, running = both
        shares = [DesiredShare(adapter="Base", weight=50), DesiredShare(adapter="Self", weight=50)]
        running.wish(of_provider("bot", MODELS[name], split=shares))
        await running.until("taken over", lambda: running.operator.reports[-1].adapters[0].split)
        found = set()
        async with client(running) as asked:
            for user in map(str, range(20)):
                raw = await asked.chat.completions.with_raw_response.create(model="bot", messages=HELLO, user=user)
                found.add((raw.headers[ADAPTER_HEADER], raw.parse().choices[0].message.content))
        base = {"openai": "gpt-base", "vertex": "gemini-base"}[name]
        assert found == {("Self", SAID[name]), ("Base", f"{base} to Hello there")}

    async def test_one_that_fails_gets_nothing(self, tmp_path: Path) -> None:
        service = OpenAIService()
        async with openai_stage(tmp_path, service) as running:
            shares = [DesiredShare(adapter="Base", weight=50), DesiredShare(adapter="Self", weight=50)]
            running.wish(of_provider("bot", "ft:none", split=shares))
            await running.until_failed("bot")
            async with client(running) as asked:
                for user in map(str, range(10)):
                    answer = await asked.chat.completions.create(model="bot", messages=HELLO, user=user)
                    assert answer.choices[0].message.content == "gpt-base to Hello there"
            said = running.operator.reports[-1].adapters[0].split or []
            assert said[0].message is None
            assert "`ft:none` does not exist" in (said[1].message or "")
