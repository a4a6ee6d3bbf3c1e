"""Builders for the plan of a training: a spec, rows of so many tokens, and what is decided about both."""

from typing import Any

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.data.measuring import Lengths
from finetune_trainer.encode import IGNORED, Example
from finetune_trainer.plan import Choices, Plan, decide
from finetune_trainer.sizing import Situation


def a_spec(**members: Any) -> FineTuneJobSpec:
    """The smallest spec; members by their wire names."""
    default = {
        "baseModel": {"uri": "s3://models/base"},
        "dataset": {"train": {"uri": "s3://data/rows.jsonl"}},
        "output": {"uri": "s3://models"},
    }
    return FineTuneJobSpec.model_validate(default | members)


def lengths(*rows: int, answer: int = 2) -> Lengths:
    """Rows of so many tokens, the last ``answer`` of them learned."""
    found = Lengths()
    for row in rows:
        found.add(Example(list(range(row)), [IGNORED] * (row - answer) + [1] * answer))
    return found


def plan(
    spec: FineTuneJobSpec, positions: int | None = 2048, random: bool = False, **splits: Lengths
) -> tuple[Plan, dict[str, str]]:
    """The plan and the choices it shows, for a hundred rows of 50 tokens unless ``splits`` says otherwise."""
    choices = Choices()
    base = BaseFacts(ResolvedBaseModel(), positions, is_large=False, random=random)
    found = decide(Situation(spec, base, {"train": lengths(*[50] * 100), **splits}), choices)  # type: ignore[dict-item]  # names of splits
    return found, {choice.field: choice.value for choice in choices.made}
