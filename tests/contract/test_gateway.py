"""The real gateway beside the real model server and a real S3 server, seen through the stock openai client.

Only the operator is played. The pod is shared by the tests; each uses deployments of its own.
"""

import asyncio
import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from finetune_api.artifacts import Manifest
from finetune_api.pods import DesiredAdapter, DesiredPool, DesiredShare
from finetune_api.v1alpha1.runtime import OpenAIProvider, ProviderRuntime
from finetune_gateway.split import pick
from finetune_storage import commit_folder, open_store
from s3_server import S3Server
from served_pool import Operator, ServedPool, expected_text, served_pool, write_adapter
from tiny_models import write_tiny_llama

PROMPT, TOKENS = "green thing 7\nColour:", 8


@dataclass
class Made:
    """Adapters on disk, and what each of them (and the base) says to PROMPT according to transformers and PEFT."""

    base: Path
    adapters: dict[str, Path]
    texts: dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    base = write_tiny_llama(folder / "base")
    adapters = {
        name: write_adapter(folder / name, base, seed=seed) for seed, name in enumerate(("red", "blue", "gold"), 1)
    }
    texts = {name: expected_text(base, adapter, PROMPT, TOKENS) for name, adapter in adapters.items()}
    texts["base"] = expected_text(base, None, PROMPT, TOKENS)
    assert len(set(texts.values())) == 4, f"all must differ, or the tests below could not fail: {texts}"
    return Made(base, adapters, texts)


@pytest.fixture(scope="module")
def pool(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory, made: Made) -> Iterator[ServedPool]:
    folder = tmp_path_factory.mktemp("gateway")  # numbered: a worker may come back to this file
    secret = s3_server.secret(folder / "secrets" / "s3")
    with served_pool(folder, s3_server.bucket(folder.name), secret, made.base) as pool:
        yield pool


@pytest.fixture
def client(pool: ServedPool) -> OpenAI:
    return OpenAI(base_url=f"{pool.url}/v1", api_key="none", max_retries=0)


def said_by(client: OpenAI, model: str) -> str:
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0)
    assert answer.model == model
    return answer.choices[0].text


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


class TestSplit:
    def test_each_user_gets_one_of_the_models_and_keeps_it(self, pool: ServedPool, made: Made, client: OpenAI) -> None:
        weights = {"Base": 30, "Self": 50, "other": 20}
        shares = [DesiredShare(adapter=name, weight=weight) for name, weight in weights.items()]
        mix = pool.publish("mix", made.adapters["red"]).model_copy(update={"split": shares, "sticky_header": "X-Team"})
        other = pool.publish("other", made.adapters["blue"])
        pool.wish(mix, other)
        pool.until_loaded(mix, other)
        texts = {"Base": made.texts["base"], "Self": made.texts["red"], "other": made.texts["blue"]}
        asked: dict[str, Any] = {"model": "mix", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
        found = set()
        for team in [f"team-{number % 15}" for number in range(45)]:
            raw = client.completions.with_raw_response.create(**asked, extra_headers={"X-Team": team})
            share = pick(weights, "mix", team, Random())
            assert raw.headers["X-Finetune-Adapter"] == share
            assert raw.parse().choices[0].text == texts[str(share)]
            found.add(share)
        assert found == set(weights)

    def test_what_is_not_loaded_gets_nothing_and_a_change_restarts_nothing(
        self, pool: ServedPool, made: Made, client: OpenAI
    ) -> None:
        def split(**weights: int) -> DesiredAdapter:
            shares = [DesiredShare(adapter=name, weight=weight) for name, weight in weights.items()]
            return pool.publish("half", made.adapters["red"]).model_copy(update={"split": shares})

        pids = {name: process.pid for name, process in pool.processes.items()}
        wish = split(Base=50, nobody=50)
        pool.wish(wish)
        pool.until_loaded(wish)
        assert {said_by(client, "half") for _ in range(10)} == {made.texts["base"]}
        said = pool.operator.said("half")
        assert said is not None
        assert [(share.adapter, share.message) for share in said.split or []] == [
            ("Base", None),
            ("nobody", "AdapterDeployment nobody is not served by this pod"),
        ]
        pool.wish(split(Self=100))
        pool.until("the new split", lambda: said_by(client, "half") == made.texts["red"])
        assert {name: process.pid for name, process in pool.processes.items()} == pids


@pytest.fixture
def in_front(pool: ServedPool, tmp_path: Path) -> Iterator[ServedPool]:
    """A gateway in front of a provider: the model server beside the other gateway, which has OpenAI's API."""
    provider = ProviderRuntime(openai=OpenAIProvider(base_url=f"{pool.server_url}/v1", base_model="base"))
    operator = Operator(DesiredPool(namespace="team", pool="pool-2", provider=provider, adapters=[]))
    front = ServedPool(tmp_path, pool.base, pool.base_uri, pool.base_digest, pool.secret, operator)
    (tmp_path / "token").write_text("a-token")
    (tmp_path / "pool.json").write_text(json.dumps(operator.desired.wire()))
    try:
        operator.start()
        front.start_gateway()
        front.until("ready", front.is_ready)
        yield front
    finally:
        front.kill("gateway")
        operator.stop()


class TestProvider:
    def test_its_model_answers_as_it_does_itself(self, pool: ServedPool, in_front: ServedPool, made: Made) -> None:
        red = pool.publish("red-there", made.adapters["red"])
        pool.wish(red)
        pool.until_loaded(red)
        name = f"red-there-{red.digest.removeprefix('sha256:')[:12]}"
        wish = DesiredAdapter(deployment="hosted", model="hosted", provider_model=name, digest=red.digest)
        in_front.wish(wish)
        in_front.until_loaded(wish)
        client = OpenAI(base_url=f"{in_front.url}/v1", api_key="none", max_retries=0)
        assert [model.id for model in client.models.list()] == ["base", "hosted"]
        assert said_by(client, "hosted") == made.texts["red"]
        assert said_by(client, "base") == made.texts["base"]
        chunks = list(
            client.completions.create(model="hosted", prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=True)
        )
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == made.texts["red"]
        chat = client.chat.completions.create(
            model="hosted", messages=[{"role": "user", "content": "red thing"}], max_tokens=TOKENS, temperature=0
        )
        assert chat.model == "hosted"
        assert chat.usage is not None

    def test_its_refusal_is_the_clients_and_the_operators(self, in_front: ServedPool) -> None:
        wish = DesiredAdapter(deployment="none", model="none", provider_model="nobody", digest="sha256:" + "0" * 64)
        in_front.wish(wish)
        in_front.until("failed", lambda: (said := in_front.operator.said("none")) and said.state == "Failed")
        said = in_front.operator.said("none")
        assert said is not None
        assert said.reason == "ProviderError"
        assert "answered 404: The model `nobody` does not exist." in (said.message or "")
        with pytest.raises(openai.NotFoundError, match="The model `nobody` does not exist"):
            said_by(OpenAI(base_url=f"{in_front.url}/v1", api_key="none", max_retries=0), "none")


class TestRefusals:
    """A bad new adapter is reported by both values and reason; the earlier one goes on serving."""

    def refused(self, pool: ServedPool, made: Made, client: OpenAI, name: str, bad: DesiredAdapter) -> tuple[str, str]:
        good = pool.publish(name, made.adapters["red"])
        pool.wish(good)
        pool.until_loaded(good)
        pool.wish(bad)
        pool.until("refused", lambda: (said := pool.operator.said(name)) and said.state == "Failed")
        said = pool.operator.said(name)
        assert said is not None
        assert (said.desired_digest, said.digest) == (bad.digest, good.digest)
        assert said_by(client, name) == made.texts["red"], "the old adapter keeps serving"
        pool.drop(name)
        return said.reason or "", said.message or ""

    def test_a_wrong_digest(self, pool: ServedPool, made: Made, client: OpenAI) -> None:
        real = pool.publish("digest", made.adapters["blue"])
        wrong = real.model_copy(update={"digest": "sha256:" + "0" * 64})
        reason, message = self.refused(pool, made, client, "digest", wrong)
        assert reason == "DigestMismatch"
        assert real.digest in message
        assert wrong.digest in message

    def test_a_changed_file(self, pool: ServedPool, made: Made, client: OpenAI, tmp_path: Path) -> None:
        adapter = write_adapter(tmp_path / "changed", made.base, seed=9)
        bad = pool.publish("changed", adapter)
        open_store(bad.uri, pool.secret).put("adapter_model.safetensors", b"x")
        reason, message = self.refused(pool, made, client, "changed", bad)
        assert reason == "DigestMismatch"
        assert "adapter_model.safetensors" in message

    def test_another_base(self, pool: ServedPool, made: Made, client: OpenAI, tmp_path: Path) -> None:
        adapter = write_adapter(tmp_path / "foreign", made.base, seed=8)
        bad = pool.publish("base-model", adapter, base_uri="s3://models/other", base_digest="sha256:" + "1" * 64)
        reason, message = self.refused(pool, made, client, "base-model", bad)
        assert reason == "BaseModelMismatch"
        assert "s3://models/other" in message
        assert pool.base_digest in message

    def test_a_rank_above_the_servers(self, pool: ServedPool, made: Made, client: OpenAI, tmp_path: Path) -> None:
        bad = pool.publish("rank", write_adapter(tmp_path / "high", made.base, seed=7, rank=17))
        assert self.refused(pool, made, client, "rank", bad) == (
            "RankTooHigh",
            "the adapter has rank 17, the server accepts at most 16 (runtime maxLoraRank)",
        )

    def test_target_modules_the_base_does_not_have(
        self, pool: ServedPool, made: Made, client: OpenAI, tmp_path: Path
    ) -> None:
        adapter = write_adapter(tmp_path / "targets", made.base, seed=6)
        config = adapter / "adapter_config.json"
        config.write_text(config.read_text().replace("q_proj", "c_attn"))
        reason, message = self.refused(pool, made, client, "targets", pool.publish("targets", adapter))
        assert reason == "AdapterInvalid"
        assert "c_attn" in message

    def test_nothing_there_and_wrong_credentials(self, pool: ServedPool, made: Made, client: OpenAI) -> None:
        real = pool.publish("missing", made.adapters["blue"])
        bad = real.model_copy(update={"uri": real.uri + "-none", "digest": "sha256:" + "2" * 64})
        reason, message = self.refused(pool, made, client, "missing", bad)
        assert reason == "ArtifactNotFound"
        assert bad.uri in message


class TestBase:
    def fetched(self, pool: ServedPool, tmp_path: Path, **changes: str) -> tuple[int, dict[str, str]]:
        """Exit code and last words of the init container for another base."""
        other = ServedPool(tmp_path, pool.base, pool.base_uri, pool.base_digest, pool.secret, pool.operator)
        base = pool.operator.desired.base_model.model_copy(update=changes)
        (tmp_path / "models").mkdir()
        before = pool.operator.desired
        pool.operator.desired = before.model_copy(update={"base_model": base, "adapters": []})
        try:
            code = other.fetch()
        finally:
            pool.operator.desired = before
        return code, json.loads((tmp_path / "termination.log").read_text())

    def test_a_base_that_is_not_there(self, pool: ServedPool, tmp_path: Path) -> None:
        code, error = self.fetched(pool, tmp_path, uri=f"{pool.base_uri}-none")
        assert (code, error["code"]) == (13, "ModelNotFound")
        assert f"{pool.base_uri}-none" in error["message"]

    def test_a_base_of_another_digest(self, pool: ServedPool, tmp_path: Path) -> None:
        code, error = self.fetched(pool, tmp_path, digest="sha256:" + "3" * 64)
        assert (code, error["code"]) == (18, "ArtifactCorrupt")
        assert pool.base_digest in error["message"]


class TestFaults:
    def test_without_the_operator_all_goes_on_and_a_restarted_server_gets_its_adapters_back(
        self, pool: ServedPool, made: Made, client: OpenAI
    ) -> None:
        wish = pool.publish("steady", made.adapters["gold"])
        pool.wish(wish)
        pool.until_loaded(wish)
        pool.operator.stop()
        time.sleep(3)  # longer than the gateway's reports are apart
        assert said_by(client, "steady") == made.texts["gold"]
        pool.kill("server")
        with pytest.raises(openai.InternalServerError) as caught:
            said_by(client, "steady")
        assert caught.value.status_code == 503
        pool.until("not ready", lambda: not pool.is_ready())
        pool.start_server()
        pool.until("ready again", pool.is_ready)
        assert said_by(client, "steady") == made.texts["gold"]
        pool.operator.start()
        pool.until_loaded(wish)

    def test_a_restarted_gateway_finds_its_adapters_loaded(self, pool: ServedPool, made: Made, client: OpenAI) -> None:
        wish = pool.publish("again", made.adapters["blue"])
        pool.wish(wish)
        pool.until_loaded(wish)
        pool.kill("gateway")
        pool.operator.reports.clear()
        pool.start_gateway()
        pool.until_loaded(wish)
        assert said_by(client, "again") == made.texts["blue"]

    def test_a_gateway_told_to_stop_turns_unready_and_ends_what_is_under_way(
        self, pool: ServedPool, made: Made, client: OpenAI
    ) -> None:
        stream = client.completions.create(model="base", prompt="x", max_tokens=200, temperature=1, stream=True)
        next(stream)
        pool.processes["gateway"].send_signal(signal.SIGTERM)
        pool.until("unready", lambda: not pool.is_ready())
        assert said_by(client, "base") == made.texts["base"], "endpoints take a while to spread"
        assert len(list(stream)) > 1, "it was still under way"
        assert pool.processes["gateway"].wait(30) == 0
        pool.start_gateway()
        pool.until("ready", pool.is_ready)


def test_the_stored_base_is_a_manifested_model(pool: ServedPool) -> None:
    """What the digests above are about."""
    manifest = Manifest.model_validate_json(open_store(pool.base_uri, pool.secret).get("manifest.json"))
    assert commit_folder(open_store(pool.base_uri, pool.secret), pool.base, "", manifest) == pool.base_digest
