"""An adapter's settings left out, each by its type."""

from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.v1alpha1.adapter import AdapterSpec
from finetune_trainer.plan import Choices
from finetune_trainer.plan_adapter import learning_rate, resolved_adapter
from finetune_trainer.usual import USUAL


def decided(**stated: Any) -> tuple[ResolvedAdapterSpec, dict[str, str]]:
    choices = Choices()
    found = resolved_adapter(AdapterSpec.model_validate(stated), choices)
    return found, {choice.field: choice.value for choice in choices.made}


LOW = {"adapter.rank": "16", "adapter.alpha": "32", "adapter.dropout": "0.05", "adapter.targetModules": "[all-linear]"}


@pytest.mark.parametrize(
    ("type_", "choices", "rate"),
    [
        ("Full", {}, 2e-5),
        ("DoRA", LOW, 2e-4),
        ("RsLoRA", LOW, 2e-4),
        ("LoraPlus", {**LOW, "adapter.learningRateRatio": "16"}, 2e-4),
        ("IA3", {"adapter.targetModules": "[keys, values, last layer of the MLP]"}, 3e-3),
        ("Prefix", {"adapter.virtualTokens": "20"}, 1e-2),
        ("Prompt", {"adapter.virtualTokens": "20"}, 3e-2),
    ],
)
def test_each_type_has_its_own_settings(type_: str, choices: dict[str, str], rate: float) -> None:
    found, made = decided(type=type_)
    assert made == choices
    assert learning_rate(USUAL["sft"], found.type, random=False)[0] == rate


def test_what_is_stated_stays() -> None:
    found, made = decided(
        type="LoraPlus",
        rank=8,
        alpha=8,
        dropout=0,
        targetModules=["q_proj"],
        rankPattern={"q_proj": 4},
        alphaPattern={"q_proj": 2},
        layers=[3, 1, 3],
        learningRateRatio=2,
    )
    assert not made
    assert found == ResolvedAdapterSpec(
        type="LoraPlus",
        rank=8,
        alpha=8,
        dropout=0.0,
        target_modules=("q_proj",),
        rank_pattern={"q_proj": 4},
        alpha_pattern={"q_proj": 2},
        layers=(1, 3),
        learning_rate_ratio=2.0,
    )
