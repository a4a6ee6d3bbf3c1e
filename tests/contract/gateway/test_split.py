"""A public name's requests, shared among adapters and base."""

from random import Random
from typing import Any

from openai import OpenAI

from finetune_api.pods import DesiredAdapter, DesiredShare
from finetune_gateway.split import pick
from served_pool import PROMPT, TOKENS, Made, ServedPool, said_by


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
