"""What is particular to OpenAI's API and to Vertex AI: credentials, and what becomes of a request."""

from pathlib import Path
from typing import Any

import openai
import pytest

from finetune_api.v1alpha1.runtime import OpenAIProvider, ProviderRuntime
from gateway_stage import stage
from provided_gateway import HELLO, a_pool, client, of_provider, openai_stage, ready, vertex_stage
from provider_stage import KEY, OpenAIService, VertexService


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
