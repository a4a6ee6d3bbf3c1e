"""The weights that learn: a fresh adapter of any type on a frozen base. The base is :mod:`finetune_trainer.model`'s.

One table says which settings of PEFT an adapter type is; nothing here depends on the method but the task type.
"""

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from transformers.pytorch_utils import Conv1D

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.reasons import Failure, Reason
from finetune_trainer import new_tokens
from finetune_trainer.targets import ALL_LINEAR, REFUSED, output_layer

EVERYWHERE = (ALL_LINEAR,)
LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
"""Where the name of a parameter says its layer."""
PREFIX_SCALE = 0.1
"""PEFT draws a prefix with standard deviation 1, which drowns the keys and values of most models."""


class Fresh(NamedTuple):
    """What the base did not bring; it learns with any adapter, and is stored with it."""

    modules: tuple[str, ...] = ()
    """Names of whole modules, as a new head."""
    rows: tuple[int, ...] = ()
    """Of the vocabulary, for new tokens."""


NOTHING = Fresh()


def add_adapter(
    model: Any, adapter: ResolvedAdapterSpec, seed: int, task: str = "CAUSAL_LM", fresh: Fresh = NOTHING
) -> Any:
    """The model with what learns: itself for Full, else a fresh adapter on a frozen base.

    ``task`` is PEFT's task type. Raises Failure where the settings do not fit the base.
    """
    if adapter.type == "Full":
        _freeze(model, adapter.frozen_layers)
        return model
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    linear = _linear_layers(model)  # PEFT may have changed them by the time it refuses
    _check_patterns(model, adapter, linear)
    config = CONFIGS[adapter.type](model, adapter, task)
    if fresh.modules:
        config.modules_to_save = config.exclude_modules = list(fresh.modules)  # no base with a head is in REFUSED
    if fresh.rows:
        config.trainable_token_indices = new_tokens.trained_rows(model, fresh.rows)
    torch.manual_seed(seed)
    try:
        tuned = get_peft_model(model, config)
    except ValueError as error:
        raise _misfit(adapter, linear, error) from error
    if isinstance(tuned.get_output_embeddings(), BaseTunerLayer):
        raise output_layer(", ".join(adapter.target_modules))
    if fresh.rows:
        new_tokens.settle_head(tuned)
    if adapter.type == "Prefix":
        tuned.prompt_encoder[tuned.active_adapter].embedding.weight.data.mul_(PREFIX_SCALE)
    return tuned


def _freeze(model: Any, count: int) -> None:
    """The embeddings and the first layers do not learn."""
    layers = int(model.config.get_text_config().num_hidden_layers)
    if count >= layers:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"adapter.frozenLayers is {count}, and the base model has {layers} layers: at most {layers - 1} can be frozen",
        )
    if count == 0:
        return
    model.get_input_embeddings().requires_grad_(False)
    found = set()
    for name, parameter in model.named_parameters():
        place = LAYER.search(name)
        if place and int(place[1]) < count:
            parameter.requires_grad_(False)
            found.add(int(place[1]))
    if missing := set(range(count)) - found:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"adapter.frozenLayers is {count}, and no weights of the base model are named as those of layer {min(missing)}, as in "
            "layers.0, h.0 or blocks.0; leave it out, or train an adapter, which freezes the whole base",
        )


def virtual_tokens(model: Any) -> int:
    """Learned tokens a model puts before every row; 0 for most."""
    from peft import PeftModel

    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return 0
    return int(model.active_peft_config.num_virtual_tokens)


def reference(model: Any) -> Any:
    """The context in which a model not yet trained answers as what it starts from: fresh virtual tokens are noise."""
    return model.disable_adapter() if virtual_tokens(model) else nullcontext()


def _low_rank(model: Any, adapter: ResolvedAdapterSpec, task: str) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        task_type=task,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=_targets(model, adapter),
        exclude_modules=_refused(model, adapter),
        rank_pattern=dict(adapter.rank_pattern),
        alpha_pattern=dict(adapter.alpha_pattern),
        layers_to_transform=list(adapter.layers) or None,
        use_rslora=adapter.type == "RsLoRA",
        use_dora=adapter.type in ("DoRA", "QDoRA"),
    )


def _ia3(model: Any, adapter: ResolvedAdapterSpec, task: str) -> Any:
    from peft import IA3Config
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEED_FORWARD

    if not adapter.target_modules:  # PEFT knows them by the architecture
        return IA3Config(task_type=task)
    targets = list(adapter.target_modules)
    known = FEED_FORWARD.get(model.config.model_type)
    inner = [name for name in targets if (_ends_feed_forward(model, name) if known is None else name in known)]
    return IA3Config(task_type=task, target_modules=targets, feedforward_modules=inner)


def _ends_feed_forward(model: Any, target: str) -> bool:
    """Whether the layers of this name end feed-forward blocks, as their sizes say: there IA3 scales what comes in, not what goes out."""
    config = model.config.get_text_config().to_dict()
    sizes = {value for name, value in config.items() if name.endswith("intermediate_size")}
    found = {
        "att" not in name and module.in_features in sizes and module.out_features == config["hidden_size"]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and f".{name}".endswith(f".{target}")
    }
    if len(found) > 1 or (True in found and config["hidden_size"] in sizes):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"adapter.targetModules names {target!r}, and the sizes of those layers do not tell whether they end feed-forward blocks, "
            "which IA3 must know; name other layers, with the name before them where needed (mlp.dense), or use LoRA",
        )
    return found == {True}


def _prefix(model: Any, adapter: ResolvedAdapterSpec, task: str) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(task_type=task, num_virtual_tokens=adapter.virtual_tokens)


def _prompt(model: Any, adapter: ResolvedAdapterSpec, task: str) -> Any:
    from peft import PromptTuningConfig

    # Drawn from the vocabulary: a random one is many times as long as the tokens it stands among.
    return PromptTuningConfig(
        task_type=task, num_virtual_tokens=adapter.virtual_tokens, prompt_tuning_init="SAMPLE_VOCAB"
    )


CONFIGS: dict[str, Callable[[Any, ResolvedAdapterSpec, str], Any]] = {
    **dict.fromkeys(("LoRA", "QLoRA", "DoRA", "QDoRA", "RsLoRA", "LoraPlus"), _low_rank),
    "IA3": _ia3,
    "Prefix": _prefix,
    "Prompt": _prompt,
}


def _targets(model: Any, adapter: ResolvedAdapterSpec) -> str | list[str]:
    if adapter.target_modules != EVERYWHERE:
        return list(adapter.target_modules)
    if adapter.layers:  # PEFT takes layers only with names
        return sorted({name.rpartition(".")[2] for name in _linear_layers(model)})
    return ALL_LINEAR


def _refused(model: Any, adapter: ResolvedAdapterSpec) -> list[str] | None:
    """Left out of all linear layers, as PEFT does not take them."""
    layers = REFUSED.get(model.config.model_type)
    return list(layers) if layers and adapter.target_modules == EVERYWHERE else None


def _linear_layers(model: Any) -> list[str]:
    """Names of the linear layers but the output layer's; GPT-2's and its like are called convolutions."""
    head = model.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]


def _check_patterns(model: Any, adapter: ResolvedAdapterSpec, linear: list[str]) -> None:
    """PEFT passes over a pattern that names nothing, and over layers that are not there."""
    for pattern in (*adapter.rank_pattern, *adapter.alpha_pattern):
        try:
            found = any(re.match(rf"(.*\.)?({pattern})$", name) for name in linear)
        except re.error as error:
            raise Failure(
                Reason.CONFIG_INVALID, f"adapter pattern {pattern!r} is no regular expression: {error}"
            ) from None
        if not found:
            raise Failure(
                Reason.CONFIG_INVALID,
                f"adapter.rankPattern or alphaPattern names {pattern!r}, which no linear layer of the base model ends with; "
                f"there are {_names(linear)}",
            )
    layers = model.config.get_text_config().num_hidden_layers
    if wrong := [layer for layer in adapter.layers if layer >= layers]:
        raise Failure(
            Reason.CONFIG_INVALID, f"adapter.layers names {wrong[0]}, but the base model has layers 0 to {layers - 1}"
        )


def _misfit(adapter: ResolvedAdapterSpec, linear: list[str], error: ValueError) -> Failure:
    said = str(error).splitlines()[0]
    if adapter.type in ("Prefix", "Prompt"):
        return Failure(Reason.CONFIG_INVALID, f"adapter {adapter.type} does not fit the base model ({said})")
    needs_names = adapter.type == "IA3" or adapter.target_modules == EVERYWHERE
    suggestion = "name some of them in adapter.targetModules" if needs_names else f"or say {ALL_LINEAR}"
    return Failure(
        Reason.CONFIG_INVALID,
        f"adapter.targetModules {list(adapter.target_modules)} do not fit the base model ({said}); "
        f"its linear layers are {_names(linear)}, {suggestion}",
    )


def _names(layers: list[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
