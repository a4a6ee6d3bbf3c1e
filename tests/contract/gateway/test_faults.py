"""Operator, model server and gateway go away and come back."""

import signal
import time

import openai
import pytest
from openai import OpenAI

from served_pool import Made, ServedPool, said_by


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
