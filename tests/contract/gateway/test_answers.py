"""What adapters and base answer through the gateway, while they come, are replaced under load, and go."""

import asyncio
import json
import urllib.request

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from finetune_api.artifacts import Manifest
from finetune_storage import commit_folder, open_store
from served_pool import PROMPT, TOKENS, Made, ServedPool, said_by


class TestAnswers:
    def test_each_adapter_and_the_base_answer_as_peft_itself_does(
        self, pool: ServedPool, made: Made, client: OpenAI
    ) -> None:
        wishes = [pool.publish(name, made.adapters[name]) for name in ("red", "blue")]
        pool.wish(*wishes)
        pool.until_loaded(*wishes)
        assert {model.id for model in client.models.list()} >= {"base", "red", "blue"}
        for _ in range(3):
            for name in ("red", "base", "blue"):
                assert said_by(client, name) == made.texts[name]

    def test_streams_say_the_same(self, pool: ServedPool, made: Made, client: OpenAI) -> None:
        wish = pool.publish("streamed", made.adapters["red"])
        pool.wish(wish)
        pool.until_loaded(wish)
        chunks = list(
            client.completions.create(model="streamed", prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=True)
        )
        assert len(chunks) > 2
        assert {chunk.model for chunk in chunks} == {"streamed"}
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == made.texts["red"]

    def test_chats_stream_and_end_with_usage(self, pool: ServedPool, made: Made, client: OpenAI) -> None:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "red thing"}]
        wish = pool.publish("chat", made.adapters["blue"])
        pool.wish(wish)
        pool.until_loaded(wish)
        whole = client.chat.completions.create(model="chat", messages=messages, max_tokens=TOKENS, temperature=0)
        base = client.chat.completions.create(model="base", messages=messages, max_tokens=TOKENS, temperature=0)
        chunks = list(
            client.chat.completions.create(
                model="chat",
                messages=messages,
                max_tokens=TOKENS,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert whole.model == "chat"
        assert {chunk.model for chunk in chunks} == {"chat"}
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert streamed == whole.choices[0].message.content != base.choices[0].message.content
        assert chunks[-1].usage is not None

    def test_the_client_gets_its_own_kinds_of_errors(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="does not exist; there are: base"):
            said_by(client, "nobody")
        with pytest.raises(openai.BadRequestError, match="logit_bias"):
            client.completions.create(model="base", prompt="x", extra_body={"logit_bias": {"1": 5}})
        with pytest.raises(openai.NotFoundError):
            client.post("/load_lora_adapter", body={"lora_name": "x", "lora_path": "/"}, cast_to=object)

    def test_one_that_is_taken_away_is_gone_and_the_others_stay(
        self, pool: ServedPool, made: Made, client: OpenAI
    ) -> None:
        wishes = [pool.publish("leaves", made.adapters["red"]), pool.publish("stays", made.adapters["blue"])]
        pool.wish(*wishes)
        pool.until_loaded(*wishes)
        pool.drop("leaves")
        pool.until("gone", lambda: "leaves" not in {model.id for model in client.models.list()})
        with pytest.raises(openai.NotFoundError):
            said_by(client, "leaves")
        assert said_by(client, "stays") == made.texts["blue"]


async def load(client: AsyncOpenAI, model: str, answers: list[str], stop: asyncio.Event) -> None:
    """One client that never rests."""
    while not stop.is_set():
        answer = await client.completions.create(model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0)
        answers.append(answer.choices[0].text)


class TestSwap:
    async def test_a_new_digest_under_load_loses_no_request_and_mixes_nothing(
        self, pool: ServedPool, made: Made
    ) -> None:
        first, second = pool.publish("swap", made.adapters["red"]), pool.publish("swap", made.adapters["gold"])
        assert first.digest != second.digest
        pool.wish(first)
        await asyncio.to_thread(pool.until_loaded, first)
        answers: list[str] = []
        stop = asyncio.Event()
        async with AsyncOpenAI(base_url=f"{pool.url}/v1", api_key="none", max_retries=0) as client:
            clients = [asyncio.create_task(load(client, "swap", answers, stop)) for _ in range(6)]
            pool.wish(second)
            await asyncio.to_thread(pool.until_loaded, second)
            at_swap = len(answers)
            await asyncio.to_thread(pool.until, "more answers", lambda: len(answers) > at_swap + 30)
            stop.set()
            await asyncio.gather(*clients)  # raises what any request raised
        assert set(answers) == {made.texts["red"], made.texts["gold"]}
        settled = answers[at_swap + len(clients) :]  # one request per client may have been under way
        assert set(settled) == {made.texts["gold"]}
        name = f"swap-{second.digest.removeprefix('sha256:')[:12]}"
        await asyncio.to_thread(pool.until, "the old one is unloaded", lambda: loaded(pool, "swap-") == [name])


def loaded(pool: ServedPool, prefix: str) -> list[str]:
    """Names the model server itself has."""
    with urllib.request.urlopen(f"{pool.server_url}/v1/models") as response:
        return [model["id"] for model in json.load(response)["data"] if model["id"].startswith(prefix)]


def test_the_stored_base_is_a_manifested_model(pool: ServedPool) -> None:
    """What the digests above are about."""
    manifest = Manifest.model_validate_json(open_store(pool.base_uri, pool.secret).get("manifest.json"))
    assert commit_folder(open_store(pool.base_uri, pool.secret), pool.base, "", manifest) == pool.base_digest
