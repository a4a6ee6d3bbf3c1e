"""Decide an adapter's settings and the learning rate that suits it. Pure; called by :mod:`finetune_trainer.plan`.

low-rank             rank 16, alpha twice the rank, dropout 0.05 (0 on experts), all linear layers
LoraPlus             B learns 16 times as fast as A
IA3                  keys, values and the last layer of the MLP
Prefix, Prompt       20 virtual tokens
learningRate         low-rank 2e-4, IA3 3e-3, Prefix 1e-2, Prompt 3e-2; Full 2e-5, from random weights 1e-3
"""

from typing import NamedTuple

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.reasons import Failure, Reason
from finetune_api.servable import servable
from finetune_api.v1alpha1.adapter import LOW_RANK, VIRTUAL_TOKENS, AdapterSpec, AdapterType
from finetune_trainer.targets import ALL_LINEAR, OUTPUT_LAYERS, PLAIN, Linear, output_layer
from finetune_trainer.usual import Take, Usual

DROPOUT = (0.05, "usual for LoRA")
NONE_ON_EXPERTS = (0.0, "experts learn without")
FEW_WEIGHTS: dict[AdapterType, int] = {"IA3": 15, "Prefix": 50, "Prompt": 150}
"""How many times faster than LoRA they learn."""


class Inherited(NamedTuple):
    """What an initial adapter brings."""

    rank: int
    alpha: int
    target_modules: tuple[str, ...]
    """Sorted."""
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, int]
    layers: tuple[int, ...]
    experts: bool
    """Whether those of a mixture learned."""


def resolved_adapter(
    stated: AdapterSpec,
    choices: Take,
    dropout: tuple[float, str] = DROPOUT,
    inherited: Inherited | None = None,
    linear: Linear = PLAIN,
) -> ResolvedAdapterSpec:
    """The settings its type has, filled in; ``linear`` are the base's layers. Raises Failure for what experts cannot have."""
    if inherited is not None:
        return _going_on(stated, choices, dropout, inherited)
    for target in stated.target_modules or ():
        if target.rpartition(".")[2] in OUTPUT_LAYERS:
            raise output_layer(target)
    if stated.type in LOW_RANK:
        return _low_rank(stated, choices, dropout, linear)
    if stated.type == "IA3":
        usual = ["keys", "values", "last layer of the MLP"]
        choices.take("adapter.targetModules", stated.target_modules, usual, "those IA3 was made for")
        return ResolvedAdapterSpec(type="IA3", target_modules=tuple(stated.target_modules or ()))
    if stated.type in VIRTUAL_TOKENS:
        tokens = choices.take("adapter.virtualTokens", stated.virtual_tokens, 20, "more learn slower")
        return ResolvedAdapterSpec(type=stated.type, virtual_tokens=tokens)
    return ResolvedAdapterSpec(type="Full", frozen_layers=stated.frozen_layers or 0)


def _low_rank(stated: AdapterSpec, choices: Take, dropout: tuple[float, str], linear: Linear) -> ResolvedAdapterSpec:
    rank = choices.take("adapter.rank", stated.rank, 16, "enough for most tasks")
    everywhere = [ALL_LINEAR]
    experts = linear.reach_experts(stated.target_modules or everywhere)
    if experts:
        targets = f"which targetModules {stated.target_modules or everywhere} reach on this base"
        _check_experts(stated, targets, ", or name the layers of its attention alone")
        dropout = NONE_ON_EXPERTS
    return ResolvedAdapterSpec(
        type=stated.type,
        rank=rank,
        alpha=choices.take("adapter.alpha", stated.alpha, 2 * rank, "twice the rank"),
        dropout=choices.take("adapter.dropout", stated.dropout, *dropout),
        target_modules=tuple(choices.take("adapter.targetModules", stated.target_modules, everywhere, linear.why)),
        rank_pattern=stated.rank_pattern or {},
        alpha_pattern=stated.alpha_pattern or {},
        layers=tuple(sorted(set(stated.layers or ()))),
        new_tokens=tuple(stated.new_tokens or ()),
        learning_rate_ratio=_ratio(stated, choices),
        experts=experts,
    )


def _check_experts(stated: AdapterSpec, which: str, otherwise: str = "") -> None:
    """They are no layers of their own, but parts of a parameter."""
    if stated.dropout:
        asked, remedy = f"dropout is {stated.dropout:g}", "set it to 0 or leave it out"
    elif stated.type in ("DoRA", "QDoRA"):
        asked, remedy = f"type is {stated.type}", "take LoRA"
    elif stated.layers:
        asked, remedy = "layers names some decoder layers", "leave it out"
    else:
        return
    raise Failure(
        Reason.CONFIG_INVALID,
        f"adapter.{asked}, and experts of a mixture, {which}, cannot have that; {remedy}{otherwise}",
    )


def check_deploy(method: str, adapter: ResolvedAdapterSpec) -> None:
    """What the operator cannot refuse, as it does not know the base. Raises Failure."""
    if adapter.experts:
        why = servable(method, adapter.type, experts=True)[1]
        raise Failure(
            Reason.CONFIG_INVALID,
            f"deploy serves adapters beside others, and this one cannot be served so: {why}; name the layers of the base's attention in "
            "adapter.targetModules, or leave deploy out",
        )


def _going_on(
    stated: AdapterSpec, choices: Take, dropout: tuple[float, str], inherited: Inherited
) -> ResolvedAdapterSpec:
    why = "that of the initial adapter"
    choices.take("adapter.rank", stated.rank, inherited.rank, why)
    choices.take("adapter.alpha", stated.alpha, inherited.alpha, why)
    choices.take("adapter.targetModules", stated.target_modules, list(inherited.target_modules), why)
    if inherited.experts:
        _check_experts(stated, "which the initial adapter changes")
        dropout = NONE_ON_EXPERTS
    return ResolvedAdapterSpec(
        type=stated.type,
        dropout=choices.take("adapter.dropout", stated.dropout, *dropout),
        learning_rate_ratio=_ratio(stated, choices),
        initial=stated.initial,
        **inherited._asdict(),
    )


def _ratio(stated: AdapterSpec, choices: Take) -> float:
    if stated.type != "LoraPlus":
        return 1.0
    return choices.take("adapter.learningRateRatio", stated.learning_rate_ratio, 16.0, "as LoRA+ was published")


def learning_rate(usual: Usual, adapter: AdapterType, *, random: bool) -> tuple[float, str]:
    """A method's, for this type, and why."""
    if random:
        return 1e-3, "random weights"
    if adapter == "Full":
        return usual.full_rate, "usual for this method with all weights of a trained model"
    if adapter in FEW_WEIGHTS:
        return round(
            usual.adapter_rate * FEW_WEIGHTS[adapter], 10
        ), f"adapter {adapter}: few weights, far from where they end"
    return usual.adapter_rate, "usual for this method with adapters"
