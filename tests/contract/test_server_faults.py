"""The model server within the test's process, so that its model can be made to fail or to wait."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from finetune_server.api import Api
from finetune_server.engine import Engine
from finetune_server.generation import Generation, SamplingParams
from finetune_server.model import LoadedModel, load_model
from finetune_server.prompts import Prompts
from finetune_server.registry import AdapterLimits, Registry, Served
from server_stage import ADAPTERS, Models, make_models

NAMES = ["base", *ADAPTERS]
MAX_TOKENS = 12
WAIT_SECONDS = 30


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp("models"))


class Stage:
    """A server that answers, and its insides."""

    def __init__(self, engine: Engine, model: LoadedModel, prompts: Prompts, client: AsyncOpenAI) -> None:
        self.engine = engine
        self.model = model
        self.prompts = prompts
        self.client = client

    async def ask(self, name: str, prompt: str = "red", **asked: Any) -> str:
        asked = {"max_tokens": MAX_TOKENS, **asked}
        return (await self.client.completions.create(model=name, prompt=prompt, temperature=0, **asked)).choices[0].text

    async def until_idle(self) -> None:
        await asyncio.wait_for(self.engine._idle.wait(), WAIT_SECONDS)

    async def until(self, condition: Callable[[], bool]) -> None:
        async def poll() -> None:
            while not condition():  # noqa: ASYNC110 (nobody tells of it)
                await asyncio.sleep(0.01)

        await asyncio.wait_for(poll(), WAIT_SECONDS)

    async def before_each_step(self, action: Callable[[], object]) -> Any:
        """Called on the model thread."""

        def hook(module: Any, args: Any) -> None:
            action()

        return await self.engine.call(lambda model: model.model.register_forward_pre_hook(hook))


@pytest.fixture
async def stage(models: Models) -> AsyncIterator[Stage]:
    def loading() -> LoadedModel:
        return load_model(models.base, dtype="auto", max_model_len=None, threads=1)

    engine = Engine(loading, max_num_seqs=4, max_queue=8)
    api = Api(engine)
    runner = api.runner()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    model = await engine.start()
    registry = Registry(Served("base", None, str(models.base)), model, engine, AdapterLimits(models.adapters, 16, 8))
    prompts = Prompts(model.decoder.tokenizer, model.vocabulary, model.max_model_len)
    api.open(registry, prompts, model.decoder)
    for name in ADAPTERS:
        await registry.load(name, name)
    async with AsyncOpenAI(
        base_url="http://{}:{}/v1".format(*runner.addresses[0]), api_key="none", max_retries=0
    ) as client:
        yield Stage(engine, model, prompts, client)
    await engine.drain(WAIT_SECONDS)
    await runner.cleanup()


@pytest.mark.parametrize("name", NAMES)
async def test_a_step_that_raises_changes_no_later_answer(
    models: Models, stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is as bad as PEFT's own: hooks that change the output stay behind, and so does the wrong adapter."""
    layer = stage.model.model.model.layers[1].mlp.down_proj
    healthy = layer.forward

    def fail(*args: Any) -> None:
        layer.register_forward_hook(lambda module, args, output: output + 1)
        stage.model.model.model.layers[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        for other in stage.model._layers:
            other._active_adapter, other._disable_adapters = ["adapter0"], False
        monkeypatch.setattr(layer, "forward", healthy)
        raise RuntimeError("injected")

    monkeypatch.setattr(layer, "forward", fail)
    with pytest.raises(openai.InternalServerError, match="injected"):
        await stage.ask(name)
    answers = await asyncio.gather(*(stage.ask(other) for other in NAMES))
    assert answers == [models.greedy(other, "red", MAX_TOKENS) for other in NAMES]


async def test_a_step_that_raises_fails_nobody_else(
    models: Models, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = stage.model.model.model.layers[0].self_attn.q_proj
    healthy = layer.forward

    def fail_for_green(hidden: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.active_adapters == ["adapter1"] and not layer.disable_adapters:
            raise RuntimeError("injected")
        return healthy(hidden, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", fail_for_green)
    outcomes = await asyncio.gather(*(stage.ask(name) for name in NAMES * 2), return_exceptions=True)
    for name, outcome in zip(NAMES * 2, outcomes, strict=True):
        if name == "green":
            assert isinstance(outcome, openai.InternalServerError)
        else:
            assert outcome == models.greedy(name, "red", MAX_TOKENS)


async def test_a_fault_in_the_middle_of_a_stream_is_told_in_the_stream(stage: Stage) -> None:
    stream = await stage.client.completions.create(
        model="red", prompt="red", max_tokens=200, temperature=0, stream=True
    )

    def fail() -> None:
        raise RuntimeError("injected")

    chunks = aiter(stream)
    await anext(chunks)
    await stage.before_each_step(fail)
    with pytest.raises(openai.APIError, match="injected"):
        async for _ in chunks:
            pass
    assert await stage.ask("red")


async def test_a_dead_model_thread_fails_everybody_and_says_so(stage: Stage) -> None:
    def die() -> None:
        raise SystemExit

    await stage.before_each_step(die)
    with pytest.raises(openai.InternalServerError, match="model thread has died"):
        await stage.ask("base")
    with pytest.raises(openai.InternalServerError, match="model thread has died"):
        await stage.ask("red")
    health = await stage.client._client.get(str(stage.client.base_url).replace("/v1/", "/health"))
    assert (health.status_code, health.text) == (500, "dead")


async def test_a_client_that_leaves_takes_its_sequences_along(stage: Stage) -> None:
    step, go = threading.Semaphore(0), threading.Semaphore(0)

    def wait() -> None:
        step.release()
        go.acquire()

    hook = await stage.before_each_step(wait)
    asking = asyncio.create_task(stage.ask("red", max_tokens=200, n=2))
    streaming = asyncio.create_task(
        stage.client.completions.create(model="blue", prompt="red", max_tokens=200, stream=True)
    )
    await asyncio.to_thread(step.acquire)  # one of them is within its first step
    await stage.until(lambda: len(stage.engine._in_flight) == 3)
    go.release()
    await asyncio.to_thread(step.acquire)
    flying = set(stage.engine._in_flight)
    asking.cancel()
    streaming.cancel()
    await stage.until(lambda: all(generation.cancelled for generation in flying))
    hook.remove()
    go.release()
    await stage.until_idle()
    assert all(generation._left > 190 for generation in flying), "nobody went on computing"


async def test_a_full_queue_is_429_for_that_model_only(stage: Stage) -> None:
    go = threading.Event()
    await stage.before_each_step(lambda: go.wait(WAIT_SECONDS))
    waiting = asyncio.create_task(stage.ask("red", n=8))
    await stage.until(lambda: len(stage.engine._in_flight) == 8)
    with pytest.raises(openai.RateLimitError, match="8 sequences are under way, at most 8") as refused:
        await stage.ask("red")
    assert refused.value.response.headers["Retry-After"] == "1"
    other = asyncio.create_task(stage.ask("blue"))
    go.set()
    assert await waiting
    assert await other


async def test_an_unloaded_adapter_leaves_when_its_last_request_has_ended(models: Models, stage: Stage) -> None:
    async def loaded() -> bool:
        return await stage.engine.call(lambda model: "adapter0" in model.model.peft_config)

    stream = await stage.client.completions.create(
        model="red", prompt="red", max_tokens=200, temperature=0, stream=True
    )
    chunks = aiter(stream)
    text = (await anext(chunks)).choices[0].text
    await stage.client.post("/unload_lora_adapter", body={"lora_name": "red"}, cast_to=str)
    assert await loaded()
    text += "".join([chunk.choices[0].text async for chunk in chunks])
    assert text == models.greedy("red", "red", 200)
    await stage.until_idle()
    assert not await loaded()


async def test_an_adapter_that_goes_while_its_prompt_is_read_is_404(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go = threading.Event(), threading.Event()
    encode = stage.prompts._encode

    def slowly(text: str) -> list[int]:
        reading.set()
        assert go.wait(WAIT_SECONDS)
        return encode(text)

    monkeypatch.setattr(stage.prompts, "_encode", slowly)
    asking = asyncio.create_task(stage.ask("red"))
    await asyncio.to_thread(reading.wait)
    await stage.client.post("/unload_lora_adapter", body={"lora_name": "red"}, cast_to=str)
    go.set()
    with pytest.raises(openai.NotFoundError, match="`red` does not exist"):
        await asking


async def test_an_adapter_that_is_not_there_is_never_answered_by_the_base(stage: Stage) -> None:
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    params = SamplingParams(MAX_TOKENS, temperature=0)
    stage.engine.submit([Generation("gone", [1, 2], params, stage.model.decoder, failed.set_result)])
    assert "KeyError('gone')" in str(await asyncio.wait_for(failed, WAIT_SECONDS))


async def test_what_does_not_end_in_time_is_503_at_shutdown(stage: Stage) -> None:
    go = threading.Event()
    await stage.before_each_step(lambda: go.wait(WAIT_SECONDS))
    asking = asyncio.create_task(stage.ask("red"))
    await stage.until(lambda: len(stage.engine._in_flight) == 1)
    draining = asyncio.create_task(stage.engine.drain(0.1))
    await asyncio.sleep(0)
    with pytest.raises(openai.InternalServerError, match="shutting down") as late:
        await stage.ask("red")
    assert (late.value.status_code, late.value.response.headers["Retry-After"]) == (503, "5")
    with pytest.raises(openai.InternalServerError, match="shutting down") as early:
        await asking
    assert early.value.status_code == 503
    await draining
    go.set()
