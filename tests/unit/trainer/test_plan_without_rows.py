"""An evaluation where no rows are held out: what would be ignored is refused, also where an operator of another version let it pass."""

from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.choices import Choices
from finetune_trainer.data.measuring import Lengths
from finetune_trainer.encode import IGNORED, Example
from finetune_trainer.plan_evaluation import resolved_evaluation
from finetune_trainer.sizing import Situation

SUITE = {"name": "general", "uri": "s3://evals/general.jsonl"}


def planned(method: str, evaluation: dict[str, Any]) -> EvaluationSpec:
    rows = Lengths()
    rows.add(Example([0] * 9, [IGNORED] * 7 + [1] * 2))
    spec = FineTuneJobSpec.model_validate(
        {
            "baseModel": {"uri": "s3://models/base"},
            "dataset": {"train": {"uri": "s3://data/rows.jsonl"}},
            "method": {method: {}},
            "evaluation": evaluation,
            "output": {"uri": "s3://models"},
        }
    )
    base = BaseFacts(ResolvedBaseModel(), 1024, is_large=False, random=False)
    return resolved_evaluation(Situation(spec, base, {"train": rows}), Choices())


@pytest.mark.parametrize(
    ("method", "evaluation", "sentence"),
    [
        ("sft", {"metrics": ["Loss"]}, r"^evaluation.metrics needs held-out rows, .* or leave it out\.$"),
        (
            "sft",
            {"samples": 2, "suites": [SUITE], "gate": [{"metric": "Loss", "max": 3}]},
            "^evaluation.samples and evaluation.gate need held-out rows",
        ),
        ("dpo", {"labels": ["a", "b"]}, "uses evaluation.labels; method dpo has no metric that does"),
    ],
)
def test_what_would_be_ignored_is_refused(method: str, evaluation: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Failure, match=sentence) as caught:
        planned(method, evaluation)
    assert caught.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    "evaluation",
    [{}, {"labels": ["a", "b"]}, {"suites": [SUITE], "gate": [{"metric": "Loss", "suite": "general", "max": 3}]}],
    ids=["nothing", "labels", "a gate on a suite"],
)
def test_what_needs_no_rows_is_taken(evaluation: dict[str, Any]) -> None:
    assert planned("sft", evaluation) == EvaluationSpec.model_validate(evaluation)
