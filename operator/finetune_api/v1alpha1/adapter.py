"""Which weights learn: the types of adapters and their settings."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from finetune_api.model import SET, ApiModel, ShortText, cel
from finetune_api.v1alpha1.references import EarlierAdapter

AdapterType = Literal["Full", "LoRA", "QLoRA", "DoRA", "QDoRA", "RsLoRA", "LoraPlus", "IA3", "Prefix", "Prompt"]

LOW_RANK = ("LoRA", "QLoRA", "DoRA", "QDoRA", "RsLoRA", "LoraPlus")
"""Adapters that add B·A to a layer's weights."""
VIRTUAL_TOKENS = ("Prefix", "Prompt")
"""Adapters that learn tokens put before every row."""


NewToken = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^\S+$")]


def _only_for(types: tuple[str, ...], *fields: str) -> tuple[str, str]:
    """The rule that these fields are left out with every other type of adapter."""
    stated = " || ".join(f"has(self.{field})" for field in fields)
    return (
        f"self.type in {list(types)} || !({stated})",
        f"{', '.join(fields)} belong{'s' if len(fields) == 1 else ''} to adapter {', '.join(types)}: "
        "leave out what the type does not have",
    )


class AdapterSpec(ApiModel):
    """Which weights learn."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            _only_for(
                LOW_RANK, "rank", "alpha", "dropout", "rankPattern", "alphaPattern", "layers", "newTokens", "initial"
            ),
            _only_for((*LOW_RANK, "IA3"), "targetModules"),
            _only_for(VIRTUAL_TOKENS, "virtualTokens"),
            _only_for(("LoraPlus",), "learningRateRatio"),
            _only_for(("Full",), "frozenLayers"),
            (
                "!has(self.initial) || !(has(self.rankPattern) || has(self.alphaPattern) || has(self.layers))",
                "rankPattern, alphaPattern and layers are those of the initial adapter; leave them out",
            ),
            (
                "!has(self.initial) || !has(self.newTokens)",
                "an adapter that is gone on from keeps the vocabulary it has learned with; leave newTokens out, or initial",
            ),
            (
                "self.type != 'IA3' || !has(self.targetModules) || !self.targetModules.exists(m, m == 'all-linear')",
                "adapter IA3 needs names in targetModules, not all-linear; leave it out for those IA3 was made for",
            ),
        )
    )

    type: AdapterType
    """Full: every weight. LoRA; QLoRA: on a 4-bit NF4 base. DoRA, QDoRA: direction and magnitude apart. RsLoRA: scaled by
    alpha / sqrt(rank). LoraPlus: B learns faster than A. IA3: one factor per channel. Prefix: virtual tokens in every
    layer's cache. Prompt: virtual tokens before the row."""
    initial: EarlierAdapter | None = None
    """An adapter of the same base and type to go on from, instead of a fresh one. Rank, alpha and layers are its own. What dpo,
    kto, ppo and grpo measure from, their reference, is then this adapter, frozen."""
    rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Rank of the update matrices; left out, 16, or that of the initial adapter."""
    alpha: Annotated[int, Field(ge=1, le=2048)] | None = None
    """Scale of the update, alpha / rank; left out, twice the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout on the adapter's input; left out, 0.05, and 0 where experts of a mixture learn, which cannot have it."""
    target_modules: Annotated[list[ShortText], Field(min_length=1, max_length=64)] | None = None
    """Names of the linear layers to adapt, or all-linear; left out, all-linear (IA3: keys, values and the last layer of the MLP)."""
    rank_pattern: (
        Annotated[dict[str, Annotated[int, Field(ge=1, le=512)]], Field(min_length=1, max_length=64)] | None
    ) = None
    """Ranks of single layers: the end of a layer's name, or a regular expression, to its rank."""
    alpha_pattern: (
        Annotated[dict[str, Annotated[int, Field(ge=1, le=2048)]], Field(min_length=1, max_length=64)] | None
    ) = None
    """Alphas of single layers: the end of a layer's name, or a regular expression, to its alpha."""
    layers: Annotated[list[Annotated[int, Field(ge=0, le=1023)]], Field(min_length=1, max_length=256)] | None = None
    """Decoder layers to adapt, counted from 0; left out, all."""
    new_tokens: Annotated[list[NewToken], Field(min_length=1, max_length=64, json_schema_extra=SET)] | None = None
    """Texts that become one token each, for example <tool>: their rows of the embedding and of the output layer learn beside the
    adapter, from the mean of what the base reads them as. The artifact carries its tokenizer; serving needs it merged."""
    virtual_tokens: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Prefix, Prompt: how many; left out, 20."""
    frozen_layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Full: the first so many layers, and the embeddings, do not learn; left out, everything does."""
    learning_rate_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    """LoraPlus: learning rate of B over that of A; left out, 16."""
