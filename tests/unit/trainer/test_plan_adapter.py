"""An adapter's settings left out, each by its type."""

from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.adapter import AdapterSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.plan import Choices, decide
from finetune_trainer.plan_adapter import learning_rate, resolved_adapter
from finetune_trainer.sizing import Situation
from finetune_trainer.targets import PLAIN, Linear
from finetune_trainer.usual import USUAL
from plan_builders import a_spec, lengths

MIXTURE = Linear("attention, router and experts", frozenset({"gate_proj", "up_proj"}))


def decided(linear: Linear = PLAIN, **stated: Any) -> tuple[ResolvedAdapterSpec, dict[str, str]]:
    choices = Choices()
    found = resolved_adapter(AdapterSpec.model_validate(stated), choices, linear=linear)
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


@pytest.mark.parametrize("type_", ["LoRA", "IA3"])
def test_the_output_layer_cannot_be_adapted(type_: str) -> None:
    with pytest.raises(Failure, match=r"targetModules names the output layer \(model.lm_head\): .* leave it out"):
        decided(type=type_, targetModules=["q_proj", "model.lm_head"])


def test_experts_learn_without_dropout() -> None:
    found, made = decided(MIXTURE, type="QLoRA")
    assert (found.dropout, found.experts, made) == (0.0, True, {**LOW, "adapter.dropout": "0"})
    found, made = decided(MIXTURE, type="DoRA", targetModules=["q_proj"], layers=[1], dropout=0.1)
    assert (found.dropout, found.experts) == (0.1, False), "attention alone has all that"
    base = BaseFacts(ResolvedBaseModel(), 2048, is_large=False, random=False, linear=MIXTURE)
    with pytest.raises(Failure, match="this one cannot be served so: it changes experts of a mixture"):
        decide(Situation(a_spec(deploy={"name": "served"}), base, {"train": lengths(50)}), Choices())


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"dropout": 0.05}, r"adapter.dropout is 0.05, .* \['all-linear'\] reach on this base, .* set it to 0"),
        ({"type": "DoRA"}, "adapter.type is DoRA, .* take LoRA, or name the layers of its attention alone"),
        ({"layers": [0]}, "adapter.layers names some decoder layers, .* leave it out"),
        ({"dropout": 0.05, "targetModules": ["q_proj", "experts.up_proj"]}, r"\['q_proj', 'experts.up_proj'\] reach"),
    ],
)
def test_what_experts_cannot_have_is_refused(stated: dict[str, Any], says: str) -> None:
    with pytest.raises(Failure, match=says):
        decided(MIXTURE, **{"type": "LoRA", **stated})
