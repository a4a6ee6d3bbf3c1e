"""How base and tuned model are compared, where the spec leaves it out; what cannot be used is refused."""

from typing import Any

import pytest

import plan_builders
from finetune_api.matrix import SAMPLING_METHODS
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.choices import Choices
from finetune_trainer.data.measuring import Lengths
from finetune_trainer.plan_evaluation import resolved_evaluation
from finetune_trainer.sampling import filled_in
from finetune_trainer.sizing import Situation

REWARDED = {"rewards": [{"length": {"maxTokens": 9}}], "maxNewTokens": 9}


def lengths(rows: int, answer: int = 2) -> Lengths:
    """Rows whose last tokens are the answer."""
    return plan_builders.lengths(*[8 + answer] * rows, answer=answer)


def plan(
    held_out: Lengths, positions: int | None = None, method: str = "sft", **evaluation: Any
) -> tuple[EvaluationSpec, dict[str, str]]:
    """The evaluation, and why each value was taken."""
    spec = plan_builders.a_spec(method={method: REWARDED if method in SAMPLING_METHODS else {}}, evaluation=evaluation)
    base, choices = BaseFacts(ResolvedBaseModel(), positions, is_large=False, random=False), Choices()
    spec = filled_in(spec, positions, choices)
    found = resolved_evaluation(Situation(spec, base, {"train": lengths(9), "test": held_out}), choices)
    return found, {choice.field: choice.reason for choice in choices.made}


def test_an_answer_leaves_room_for_its_prompt() -> None:
    found, why = plan(lengths(3, answer=600), positions=1_000)
    assert found.max_new_tokens == 500
    assert why["evaluation.maxNewTokens"].startswith("half of the base's positions")
    for positions in (1_200, None):
        found, why = plan(lengths(3, answer=600), positions)
        assert (found.max_new_tokens, why["evaluation.maxNewTokens"]) == (600, "the longest held-out answer")


def test_at_most_a_thousand_rows_are_answered_unless_more_are_asked_for() -> None:
    rows, field = lengths(1_001), "evaluation.generation.maxRows"
    for held_out, stated, expected, reason in [
        (lengths(1_000), {}, 1_000, "every held-out row"),
        (rows, {}, 1_000, "the first ones of 1001 held-out rows: both models write every answer"),
        (rows, {"generation": {"maxRows": 1_001}}, 1_001, "stated"),
    ]:
        found, why = plan(held_out, **stated)
        assert found.generation is not None
        assert found.generation.max_rows == expected
        assert why.get(field, "stated").startswith(reason)


FORMAT = {"answerFormat": {"regex": {"pattern": "a"}}}
ALL_OF_ANSWERS = {"generation": {"temperature": 0.5}, "maxNewTokens": 8, "samples": 3, **FORMAT}


@pytest.mark.parametrize(
    ("method", "stated", "sentence"),
    [
        pytest.param(
            "sft",
            {"metrics": ["Loss"], "maxNewTokens": 8},
            r"none of the metrics \(Loss\) uses evaluation.maxNewTokens; leave evaluation.maxNewTokens out, or add to "
            "evaluation.metrics one of ExactMatch, TokenF1",
            id="no answer is written",
        ),
        pytest.param(
            "dpo",
            {"metrics": ["Loss"], **ALL_OF_ANSWERS},
            "evaluation.generation and evaluation.maxNewTokens and evaluation.samples and evaluation.answerFormat; "
            "method dpo has no metric that does: leave .* out$",
            id="a method that writes none",
        ),
        pytest.param("cpt", {"samples": 2}, "evaluation.samples; method cpt has no", id="metrics left out"),
        pytest.param(
            "sft",
            {"metrics": ["ExactMatch"], **FORMAT},
            "evaluation.answerFormat; leave evaluation.answerFormat out, or add .* one of FormatCompliance$",
            id="answers whose format is not measured",
        ),
        pytest.param("dpo", {"labels": ["a", "b"]}, "evaluation.labels; method dpo has no", id="no labels"),
        pytest.param(
            "classification", {"labels": ["a", "b"]}, r"\(its classes are those of its rows", id="labels of its own"
        ),
    ],
)
def test_what_no_metric_would_use_is_refused(method: str, stated: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Failure, match=sentence) as caught:
        plan(lengths(3), method=method, **stated)
    assert caught.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    ("method", "stated"),
    [
        pytest.param("sft", ALL_OF_ANSWERS, id="the usual metrics"),
        pytest.param("sft", {"metrics": ["Loss"], "labels": ["a", "b"]}, id="labels, by which rows are checked"),
        pytest.param(
            "sft", {"metrics": ["Loss"], "gate": [{"metric": "ExactMatch", "min": 0.5}], "samples": 1}, id="by the gate"
        ),
        pytest.param("dpo", {"samples": 0}, id="nothing is asked for"),
        pytest.param("grpo", {"metrics": ["Accuracy", "MacroF1"], "labels": ["a", "b"]}, id="labels of grpo"),
    ],
)
def test_what_a_metric_uses_is_taken(method: str, stated: dict[str, Any]) -> None:
    found, _ = plan(lengths(3), method=method, **stated)
    assert EvaluationSpec.model_validate(stated | found.model_dump(exclude_none=True, by_alias=True)) == found


@pytest.mark.parametrize("method", ["sft", "ppo", "grpo"])
def test_labels_bring_both_of_their_metrics(method: str) -> None:
    assert {"Accuracy", "MacroF1"} <= {*(plan(lengths(3), method=method, labels=["a", "b"])[0].metrics or ())}
    assert not {"Accuracy", "MacroF1"} & {*(plan(lengths(3), method=method)[0].metrics or ())}
