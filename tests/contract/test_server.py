"""The model server process against the stock ``openai`` client: each answer is that of its adapter alone."""

import asyncio
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import torch
from openai import AsyncOpenAI, OpenAI

from server_stage import ADAPTERS, Models, ServerProcess, load, make_models, running_server, start, unload

PROMPTS = [
    "red",
    "thing 31\nColour:",
    "Colour: red thing 5 blue thing 12\nColour: green",
    "green green",
    "blue 3 4 5\nthing",
]
NAMES = ["base", *ADAPTERS]
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: Models) -> Iterator[ServerProcess]:
    with running_server(models, "--max-lora-rank", "16", "--max-queue", "64") as server:
        client = OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        for name in ADAPTERS:
            load(client, name, models.adapters / name)
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


async def complete(client: AsyncOpenAI, name: str, prompt: str, *, stream: bool) -> str:
    asked: dict[str, Any] = {"model": name, "prompt": prompt, "temperature": 0, "max_tokens": MAX_TOKENS}
    if not stream:
        return (await client.completions.create(**asked)).choices[0].text
    return "".join([chunk.choices[0].text async for chunk in await client.completions.create(**asked, stream=True)])


async def test_many_clients_at_once_each_get_their_own_models_answer(models: Models, server: ServerProcess) -> None:
    asked = [(name, prompt, stream) for prompt in PROMPTS for name in NAMES for stream in (False, True)]
    async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(
            *(complete(client, name, prompt, stream=stream) for name, prompt, stream in asked)
        )
    expected = [models.greedy(name, prompt, MAX_TOKENS) for name, prompt, _ in asked]
    assert answers == expected
    assert all(len({models.greedy(name, prompt, MAX_TOKENS) for name in NAMES}) == len(NAMES) for prompt in PROMPTS)


async def test_loading_and_unloading_disturbs_nobody(models: Models, server: ServerProcess, client: OpenAI) -> None:
    running = True

    async def asking(client: AsyncOpenAI, name: str) -> int:
        count = 0
        while running:
            assert await complete(client, name, PROMPTS[1], stream=count % 2 == 0) == models.greedy(
                name, PROMPTS[1], MAX_TOKENS
            )
            count += 1
        return count

    async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as asker:
        tasks = [asyncio.create_task(asking(asker, name)) for name in NAMES]
        for _ in range(5):
            for source in ADAPTERS:
                await asyncio.to_thread(load, client, "guest.1", models.adapters / source)
                assert await complete(asker, "guest.1", "red", stream=False) == models.greedy(source, "red", MAX_TOKENS)
                await asyncio.to_thread(unload, client, "guest.1")
        running = False
        assert min(await asyncio.gather(*tasks)) > 0
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="guest.1", prompt="red")


def test_models_are_listed_as_vllm_lists_them(models: Models, client: OpenAI) -> None:
    cards = {card.id: card.model_dump() for card in client.models.list()}
    assert list(cards) == NAMES
    assert (cards["base"]["root"], cards["base"]["parent"], cards["base"]["max_model_len"]) == (
        str(models.base),
        None,
        256,
    )
    assert (cards["red"]["root"], cards["red"]["parent"]) == (str(models.adapters / "red"), "base")


@pytest.mark.parametrize("name", NAMES)
def test_chat(models: Models, client: OpenAI, name: str) -> None:
    messages: Any = [{"role": "system", "content": "Colours."}, {"role": "user", "content": "thing 4"}]
    asked: dict[str, Any] = {"model": name, "messages": messages, "temperature": 0, "max_completion_tokens": MAX_TOKENS}
    expected = models.greedy_chat(name, messages, MAX_TOKENS)
    answer = client.chat.completions.create(**asked)
    assert (answer.choices[0].message.content, answer.choices[0].message.role) == (expected, "assistant")
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == answer.choices[0].finish_reason
    assert [chunk.usage for chunk in chunks] == [None] * (len(chunks) - 1) + [answer.usage]
    assert chunks[-1].choices == []


def test_scoring_a_text_gives_the_models_own_log_probabilities(models: Models, client: OpenAI) -> None:
    for name, text in [("base", PROMPTS[1]), ("green", PROMPTS[2])]:
        answer = client.completions.create(model=name, prompt=[text, "red"], max_tokens=0, echo=True, logprobs=2)
        choice, found = answer.choices[0], answer.choices[0].logprobs
        assert found is not None
        assert (choice.text, choice.finish_reason, answer.usage and answer.usage.completion_tokens) == (
            text,
            "length",
            0,
        )
        ids = models.tokenizer(text).input_ids
        expected = models.logprobs(name, text)[:-1].gather(1, torch.tensor(ids[1:])[:, None]).flatten().tolist()
        assert found.token_logprobs == [None, *(pytest.approx(value, abs=1e-4) for value in expected)]
        assert "".join(found.tokens or []) == text
        assert found.top_logprobs
        assert found.top_logprobs[0] is None
        best = models.logprobs(name, text)[0].max().item()
        assert max(found.top_logprobs[1].values()) == pytest.approx(best, abs=1e-4)


def test_log_probabilities_of_an_answer_are_those_of_scoring_it(client: OpenAI) -> None:
    made = client.completions.create(
        model="blue", prompt="red thing", temperature=0, max_tokens=5, logprobs=0, echo=True
    )
    chat = client.chat.completions.create(
        model="blue",
        messages=[{"role": "user", "content": "x"}],
        temperature=0,
        max_tokens=3,
        logprobs=True,
        top_logprobs=2,
    )
    assert made.choices[0].logprobs
    assert made.choices[0].logprobs.token_logprobs
    assert chat.choices[0].logprobs
    assert len(made.choices[0].logprobs.token_logprobs) == 2 + 5
    for token in chat.choices[0].logprobs.content or []:
        assert len(token.top_logprobs) == 2
        assert token.logprob == max(other.logprob for other in token.top_logprobs), "greedy takes the likeliest"


def test_a_seed_gives_the_same_choices_again_and_they_differ(client: OpenAI) -> None:
    def choices(seed: int) -> list[str]:
        answer = client.completions.create(model="red", prompt="green", n=3, seed=seed, max_tokens=8)
        assert answer.usage
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 24)
        return [choice.text for choice in answer.choices]

    assert choices(1) == choices(1)
    assert len({*choices(1), *choices(2)}) == 6


def test_text_ends_before_a_stop_string(models: Models, client: OpenAI) -> None:
    whole = models.greedy("base", "red", MAX_TOKENS)
    stop = whole[5:8]
    answer = client.completions.create(
        model="base", prompt="red", temperature=0, max_tokens=MAX_TOKENS, stop=[stop, "never"]
    )
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")


def test_token_ids_and_several_prompts(models: Models, client: OpenAI) -> None:
    ids = [models.tokenizer(prompt).input_ids for prompt in PROMPTS]
    for prompt, expected in [(ids, PROMPTS), (PROMPTS, PROMPTS), (ids[1], PROMPTS[1:2])]:
        answer = client.completions.create(model="green", prompt=prompt, temperature=0, max_tokens=6)
        assert [choice.text for choice in answer.choices] == [models.greedy("green", text, 6) for text in expected]


@pytest.mark.parametrize(
    ("asked", "error", "code", "words"),
    [
        pytest.param(
            {"model": "nobody"}, openai.NotFoundError, "model_not_found", "`nobody` does not exist", id="model"
        ),
        pytest.param(
            {"prompt": "x " * 300}, openai.BadRequestError, "context_length_exceeded", "is 256 tokens", id="long prompt"
        ),
        pytest.param(
            {"max_tokens": 256}, openai.BadRequestError, "context_length_exceeded", "257 tokens (1 in", id="long answer"
        ),
        pytest.param(
            {"prompt": [320]}, openai.BadRequestError, None, "Token id 320 is not within 0 and 319", id="token id"
        ),
        pytest.param({"prompt": ""}, openai.BadRequestError, None, "holds no token", id="empty"),
        pytest.param(
            {"frequency_penalty": 1},
            openai.BadRequestError,
            "unsupported_parameter",
            "`frequency_penalty`",
            id="penalty",
        ),
        pytest.param({"max_tokens": 0}, openai.BadRequestError, None, "without `echo`", id="nothing"),
        pytest.param({"n": 100}, openai.BadRequestError, None, "at most 64", id="more than the queue takes"),
    ],
)
def test_refusals_are_openais(
    client: OpenAI, asked: dict[str, Any], error: type[Any], code: str | None, words: str
) -> None:
    with pytest.raises(error) as refused:
        client.completions.create(**{"model": "base", "prompt": "red", **asked})
    assert refused.value.code == code
    assert words in refused.value.body["message"]


async def test_what_is_under_way_ends_after_sigterm_and_the_exit_code_is_0(models: Models) -> None:
    with running_server(models) as server:
        async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            stream = await client.completions.create(
                model="base", prompt="red", temperature=0, max_tokens=200, stream=True
            )
            text = (await anext(aiter(stream))).choices[0].text
            server.process.send_signal(signal.SIGTERM)
            text += "".join([chunk.choices[0].text async for chunk in stream])
        assert text == models.greedy("base", "red", 200)
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(server.url + "/health")


def test_a_model_that_needs_code_ends_the_server_with_a_sentence(models: Models, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "evil.Model"}}')
    process = start("--model", str(tmp_path), "--adapter-root", str(models.adapters))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "has auto_map: the model needs code of its own, which this server never runs" in said
    assert "Traceback" not in said


def test_an_adapter_ends_its_answers_as_its_own_generation_config_says(models: Models, client: OpenAI) -> None:
    """A tuned model may have learned another end than its base: the trainer writes it beside the adapter."""
    asked: dict[str, Any] = {"prompt": PROMPTS[1], "temperature": 0, "max_tokens": MAX_TOKENS}
    whole = client.completions.create(model="red", **asked, logprobs=0).choices[0]
    assert whole.finish_reason == "length"
    tokens = models.tokenizer(PROMPTS[1] + whole.text, add_special_tokens=False).input_ids
    end = tokens[len(models.tokenizer(PROMPTS[1], add_special_tokens=False).input_ids) + 3]
    folder = shutil.copytree(models.adapters / "red", models.adapters / "ends")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    load(client, "ends", folder)
    ended = client.completions.create(model="ends", **asked).choices[0]
    assert ended.finish_reason == "stop"
    assert whole.text.startswith(ended.text)
    assert len(ended.text) < len(whole.text)
    assert client.completions.create(model="red", **asked).choices[0].text == whole.text, "the others end as before"
    unload(client, "ends")
