"""Rows counted in tokens: what the plan counts is what the training keeps."""

import random
from typing import Any

import pytest

from finetune_api.reasons import Failure
from finetune_trainer.data.measuring import Lengths
from finetune_trainer.encode import IGNORED, Example, Pair
from finetune_trainer.preferences import encode_pairs, whole_answers, whole_prompt

CUTS = ["dpo", "reward"]


class Given:
    """An encoder of pairs that are tokens already."""

    def pair(self, fields: dict[str, Pair]) -> Pair:
        return fields["pair"]


GIVEN: Any = Given()


def some_pairs(count: int = 300) -> list[Pair]:
    """Long and short prompts, answers that begin alike, and some that are the same."""
    dice = random.Random(1)
    pairs = []
    for _ in range(count):
        alike = [5] * dice.randrange(6)
        sides = [[*alike, *[dice.randrange(2)] * dice.randrange(1, 8)] for _ in range(2)]
        pairs.append(Pair([3] * dice.randrange(1, 14), sides[0], sides[1]))
    return pairs


def lengths(*rows: Example | Pair) -> Lengths:
    found = Lengths()
    for row in rows:
        found.add(row)
    return found


@pytest.mark.parametrize("method", CUTS)
@pytest.mark.parametrize("max_length", [1, 2, 3, 5, 8, 12, 40])
def test_the_plan_counts_the_preferences_that_are_learned_from(method: str, max_length: int) -> None:
    pairs, is_reward = some_pairs(), method == "reward"
    cut = whole_answers if is_reward else whole_prompt
    try:
        kept = encode_pairs(GIVEN, [{"pair": pair} for pair in pairs], max_length, cut)
    except Failure:
        kept = []
    found = lengths(*pairs)
    assert found.sequences(max_length, packing=False, whole_answers=is_reward) == len(kept)
    tokens = sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in kept)
    assert found.kept_tokens(max_length, whole_answers=is_reward) == tokens


def test_what_is_left_out_is_said_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    long, alike, good = Pair([3] * 9, [1], [2]), Pair([3], [5] * 8 + [1], [5] * 8 + [2]), Pair([3], [1], [2])
    rows = [{"pair": pair} for pair in (long, alike, alike, good)]
    assert len(encode_pairs(GIVEN, rows, 8)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "1 preferences left out: the prompt alone fills the 8 tokens",
        "2 preferences left out: no difference within 8 tokens",
    ]
    kept = encode_pairs(GIVEN, rows, 8, whole_answers)
    assert [pair.prompt for pair in kept] == [[3] * 7, [3]], (
        "a reward is read at the end: the prompt loses its beginning"
    )
    assert capsys.readouterr().out == "2 preferences left out: no difference within 8 tokens\n"


def test_both_sides_of_a_preference_count_and_the_longer_one_is_its_length() -> None:
    found = lengths(Pair([3, 3], [1, 1, 1], [2]))
    assert (found.total(), found.percentile(1.0), found.longest_answer) == (8, 5, 3)
    assert found.total(4) == 7


def test_rows_that_are_left_out_fill_no_sequence() -> None:
    found = lengths(Example([3] * 9, [IGNORED] * 8 + [1]), Example([3] * 4, [IGNORED] * 3 + [1]))
    assert (found.sequences(6, packing=False), found.kept_tokens(6)) == (1, 4)
