"""What answers are worth, by rule."""

from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.reinforcement import RewardSpec
from finetune_api.v1alpha1.training import MethodSpec
from finetune_trainer.rewards import Answer, judge, reward


def worth(text: str, *, reference: str = "", tokens: int = 1, **spec: Any) -> float:
    answer = Answer(text, reference, prompt_ids=[1], ids=[7] * tokens)
    return reward(RewardSpec.model_validate(spec))(answer)


@pytest.mark.parametrize(("text", "expected"), [("Answer: 42", 1), ("42", 0), ("so\nAnswer: 7", 1)])
def test_a_pattern_is_searched_for_anywhere(text: str, expected: float) -> None:
    assert worth(text, regex={"pattern": r"Answer: \d+"}) == expected


@pytest.mark.parametrize(("text", "expected"), [(" red\n", 1), ("Red", 0), ("red.", 0), ("", 0)])
def test_an_exact_match_is_the_references_text(text: str, expected: float) -> None:
    assert worth(text, reference="red ", exactMatch={}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"n": 1}', 1), ('{"n": "1"}', 0), ("[1]", 0), ('{"n": 1', 0), ("", 0), ("[" * 100_000, 0)],
)
def test_json_of_a_shape(text: str, expected: float) -> None:
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    assert worth(text, jsonSchema={"document": schema}) == expected


@pytest.mark.parametrize(
    ("length", "tokens", "expected"),
    [
        ({"targetTokens": 4}, 4, 1),
        ({"targetTokens": 4}, 1, 0.25),
        ({"targetTokens": 4}, 6, 0.5),
        ({"targetTokens": 4}, 9, 0),
        ({"minTokens": 2}, 1, 0),
        ({"minTokens": 2}, 2, 1),
        ({"minTokens": 2, "maxTokens": 3}, 4, 0),
    ],
)
def test_a_length_in_tokens(length: dict[str, int], tokens: int, expected: float) -> None:
    assert worth("", tokens=tokens, length=length) == expected


def a_method(*rewards: dict[str, Any]) -> MethodSpec:
    return MethodSpec.model_validate({"grpo": {"rewards": list(rewards)}})


def test_a_judge_adds_the_rewards_by_their_weights() -> None:
    judged = judge(
        a_method(
            {"exactMatch": {}}, {"length": {"maxTokens": 2}, "weight": 0.5}, {"regex": {"pattern": "x"}, "weight": -1}
        )
    )
    assert judged is not None
    assert judged([Answer("a", "a", [1], [2]), Answer("x", "a", [1], [2, 3, 4])]) == [1.5, -1.0]


def test_a_reward_models_score_is_added_by_its_weight() -> None:
    method = MethodSpec.model_validate(
        {"grpo": {"rewards": [{"exactMatch": {}}], "rewardModel": {"uri": "s3://m/judge/adapter", "weight": 0.5}}}
    )
    judged = judge(method, lambda answers: [float(len(answer.ids)) for answer in answers])
    assert judged is not None
    assert judged([Answer("a", "a", [1], [2]), Answer("x", "a", [1], [2, 3, 4])]) == [1.5, 1.5]


def test_a_method_without_rewards_has_no_judge() -> None:
    assert judge(MethodSpec.model_validate({"sft": {}})) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"regex": {"pattern": "("}}, r"the reward regex '\(' is no regular expression of Python"),
        ({"jsonSchema": {"document": "{,"}}, "no JSON schema"),
        ({"jsonSchema": {"document": '{"type": "thing"}'}}, "no JSON schema .* 'thing'"),
    ],
)
def test_a_reward_that_cannot_be_computed_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(Failure, match=message) as caught:
        judge(a_method(spec))
    assert caught.value.reason is Reason.CONFIG_INVALID
