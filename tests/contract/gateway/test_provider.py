"""A gateway in front of a provider, which is the model server beside another gateway."""

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from finetune_api.pods import DesiredAdapter, DesiredPool
from finetune_api.v1alpha1.runtime import OpenAIProvider, ProviderRuntime
from served_pool import PROMPT, TOKENS, Made, Operator, ServedPool, said_by


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
