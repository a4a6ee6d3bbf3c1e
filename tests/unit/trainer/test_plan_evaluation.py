"""How base and tuned model are compared, where the spec leaves it out; what cannot be used is refused."""

from typing import Any

from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.choices import Choices
from finetune_trainer.data.measuring import Lengths
from finetune_trainer.encode import IGNORED, Example
from finetune_trainer.plan_evaluation import resolved_evaluation
from finetune_trainer.sizing import Situation


def lengths(rows: int, answer: int = 2) -> Lengths:
    """Rows whose last tokens are the answer."""
    found = Lengths()
    for _ in range(rows):
        found.add(Example([0] * (answer + 8), [IGNORED] * 8 + [1] * answer))
    return found


def plan(
    held_out: Lengths, positions: int | None = None, method: str = "sft", **evaluation: Any
) -> tuple[EvaluationSpec, dict[str, str]]:
    """The evaluation, and why each value was taken."""
    spec = FineTuneJobSpec.model_validate(
        {
            "baseModel": {"uri": "s3://models/base"},
            "dataset": {"train": {"uri": "s3://data/rows.jsonl"}},
            "method": {method: {}},
            "evaluation": evaluation,
            "output": {"uri": "s3://models"},
        }
    )
    base, choices = BaseFacts(ResolvedBaseModel(), positions, is_large=False, random=False), Choices()
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
