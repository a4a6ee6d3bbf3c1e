"""Decide an adapter's settings and the learning rate that suits it. Pure; called by :mod:`finetune_trainer.plan`.

low-rank             rank 16, alpha twice the rank, dropout 0.05, all linear layers
LoraPlus             B learns 16 times as fast as A
IA3                  keys, values and the last layer of the MLP
Prefix, Prompt       20 virtual tokens
learningRate         low-rank 2e-4, IA3 3e-3, Prefix 1e-2, Prompt 3e-2; Full 2e-5, from random weights 1e-3
"""

from typing import NamedTuple

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.v1alpha1.adapter import LOW_RANK, VIRTUAL_TOKENS, AdapterSpec, AdapterType
from finetune_trainer.usual import Take, Usual

DROPOUT = (0.05, "usual for LoRA")
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


def resolved_adapter(
    stated: AdapterSpec, choices: Take, dropout: tuple[float, str] = DROPOUT, inherited: Inherited | None = None
) -> ResolvedAdapterSpec:
    """The settings its type has, filled in."""
    if inherited is not None:
        return _going_on(stated, choices, dropout, inherited)
    if stated.type in LOW_RANK:
        return _low_rank(stated, choices, dropout)
    if stated.type == "IA3":
        usual = ["keys", "values", "last layer of the MLP"]
        choices.take("adapter.targetModules", stated.target_modules, usual, "those IA3 was made for")
        return ResolvedAdapterSpec(type="IA3", target_modules=tuple(stated.target_modules or ()))
    if stated.type in VIRTUAL_TOKENS:
        tokens = choices.take("adapter.virtualTokens", stated.virtual_tokens, 20, "more learn slower")
        return ResolvedAdapterSpec(type=stated.type, virtual_tokens=tokens)
    return ResolvedAdapterSpec(type="Full", frozen_layers=stated.frozen_layers or 0)


def _low_rank(stated: AdapterSpec, choices: Take, dropout: tuple[float, str]) -> ResolvedAdapterSpec:
    rank = choices.take("adapter.rank", stated.rank, 16, "enough for most tasks")
    everywhere = ["all-linear"]
    return ResolvedAdapterSpec(
        type=stated.type,
        rank=rank,
        alpha=choices.take("adapter.alpha", stated.alpha, 2 * rank, "twice the rank"),
        dropout=choices.take("adapter.dropout", stated.dropout, *dropout),
        target_modules=tuple(
            choices.take("adapter.targetModules", stated.target_modules, everywhere, "better than attention alone")
        ),
        rank_pattern=stated.rank_pattern or {},
        alpha_pattern=stated.alpha_pattern or {},
        layers=tuple(sorted(set(stated.layers or ()))),
        new_tokens=tuple(stated.new_tokens or ()),
        learning_rate_ratio=_ratio(stated, choices),
    )


def _going_on(
    stated: AdapterSpec, choices: Take, dropout: tuple[float, str], inherited: Inherited
) -> ResolvedAdapterSpec:
    why = "that of the initial adapter"
    choices.take("adapter.rank", stated.rank, inherited.rank, why)
    choices.take("adapter.alpha", stated.alpha, inherited.alpha, why)
    choices.take("adapter.targetModules", stated.target_modules, list(inherited.target_modules), why)
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
