"""Drawing a token."""

from collections import Counter
from random import Random

import pytest
import torch

from finetune_server.batch import sample, scored
from finetune_server.generation import SamplingParams, Token

PROBABILITIES = [0.5, 0.3, 0.15, 0.05]
LOGITS = torch.tensor(PROBABILITIES).log()


def shares(draws: int = 4000, **params: float) -> list[float]:
    random = Random(0)
    counts = Counter(sample(LOGITS, SamplingParams(1, **params), random) for _ in range(draws))  # type: ignore[arg-type]
    return [counts[token] / draws for token in range(4)]


def test_temperature_0_takes_the_likeliest() -> None:
    assert shares(temperature=0.0, draws=50) == [1, 0, 0, 0]


def test_draws_follow_the_probabilities() -> None:
    assert shares() == pytest.approx(PROBABILITIES, abs=0.03)


def test_temperature_flattens() -> None:
    flat = LOGITS.div(2).softmax(-1).tolist()
    assert shares(temperature=2.0) == pytest.approx(flat, abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "expected"), [(0.4, [1, 0, 0, 0]), (0.6, [0.625, 0.375, 0, 0]), (0.8, [0.625, 0.375, 0, 0])]
)
def test_top_p_keeps_the_smallest_set_that_holds_it(top_p: float, expected: list[float]) -> None:
    assert shares(top_p=top_p) == pytest.approx(expected, abs=0.03)


def test_a_token_is_scored_beside_the_likeliest() -> None:
    logprobs = torch.tensor([-3.0, -1.0, -2.0, -4.0])
    assert scored(1, logprobs, 2) == Token(1, -1.0, ((1, -1.0), (2, -2.0)))
    assert scored(3, logprobs, 1) == Token(3, -4.0, ((1, -1.0), (3, -4.0)))
    assert scored(3, logprobs, 0) == Token(3, -4.0, ((3, -4.0),))
