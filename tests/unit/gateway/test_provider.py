"""A pool in front of a provider answers the official client; the provider is a stand-in that follows its REST reference."""

from pathlib import Path

import openai
import pytest

from finetune_api.pods import ADAPTER_HEADER, DesiredShare
from gateway_stage import Stage
from provided_gateway import HELLO, MODELS, SAID, client, of_provider, openai_stage, ready
from provider_stage import OpenAIService, Provider


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
