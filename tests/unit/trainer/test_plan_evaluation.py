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
