"""One adapter folder: everything that can be wrong with it is said before the model sees it.

Called by :mod:`finetune_server.registry` on a worker thread; :mod:`finetune_server.model` then puts the adapter in.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
GENERATION = "generation_config.json"

SERVED = {
    "r", "lora_alpha", "target_modules", "exclude_modules", "lora_dropout", "rank_pattern", "alpha_pattern",
    "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "layers_to_transform", "layers_pattern",
    "init_lora_weights", "base_model_name_or_path", "revision", "peft_type", "peft_version", "task_type",
    "auto_mapping", "inference_mode", "runtime_config", "loftq_config",
}  # fmt: skip
"""Settings an adapter may have. The others change weights of the base that all adapters share, or the forward pass."""
HARMLESS_INIT = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base's weights as they are; pissa, olora, corda, loftq and the like rewrite them."""

TENSOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.weight|\.bias)?"
)


class AdapterRefused(ValueError):
    """An adapter that cannot be served; the message names what was found and what is accepted."""


@dataclass(frozen=True)
class Adapter:
    """A checked adapter in memory."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    stop_tokens: frozenset[int] | None = None
    """Tokens that end an answer of the tuned model; None: those of the base."""


def read_adapter(folder: Path, modules: Mapping[str, tuple[int, int]], max_rank: int) -> Adapter:
    """Read and check; ``modules`` are the base's modules with their input and output sizes. Raises AdapterRefused."""
    config = read_config(folder)
    check_rank(config, max_rank)
    check_targets(config, modules)
    return Adapter(config, read_tensors(folder, modules), read_stop_tokens(folder))


def read_config(folder: Path) -> LoraConfig:
    """adapter_config.json, if it asks for nothing this server cannot do."""
    try:
        raw = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterRefused(f"{CONFIG} in {folder} cannot be read: {error}") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        found = raw.get("peft_type") if isinstance(raw, dict) else raw
        raise AdapterRefused(f"{CONFIG} has peft_type {found}; this server serves LORA")
    init = raw.pop("init_lora_weights", True)
    if init not in HARMLESS_INIT:
        raise AdapterRefused(
            f"{CONFIG} has init_lora_weights {init!r}, which changes the base; convert the adapter to plain LoRA first"
        )
    known = {field.name for field in fields(LoraConfig)}
    refuse_settings({name: value for name, value in raw.items() if name not in known and value})
    try:
        config = LoraConfig(**{name: value for name, value in raw.items() if name in known and name != "peft_type"})
    except (TypeError, ValueError) as error:
        raise AdapterRefused(f"{CONFIG} is not a LoRA configuration: {error}") from error
    plain = LoraConfig()
    changed = {name: value for name, value in raw.items() if value and value != getattr(plain, name, None)}
    refuse_settings({name: value for name, value in changed.items() if name not in SERVED})
    config.inference_mode = True
    return config


def read_stop_tokens(folder: Path) -> frozenset[int] | None:
    """eos_token_id of generation_config.json: tuning may have taught another end than the base has. None: not stated."""
    file = folder / GENERATION
    if not file.is_file():
        return None
    try:
        stated = json.loads(file.read_bytes()).get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterRefused(f"{GENERATION} in {folder} cannot be read: {error}") from error
    if stated is None:
        return None
    tokens = stated if isinstance(stated, list) else [stated]
    if not all(type(token) is int for token in tokens):
        raise AdapterRefused(f"{GENERATION} has eos_token_id {stated!r}; it is a token id or a list of them")
    return frozenset(tokens)


def refuse_settings(found: dict[str, Any]) -> None:
    """Raises AdapterRefused if there are any."""
    if found:
        named = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(found.items()))
        raise AdapterRefused(f"{CONFIG} has {named}, which this server does not serve")


def check_rank(config: LoraConfig, max_rank: int) -> None:
    """The largest rank of any layer."""
    rank = max([config.r, *(config.rank_pattern or {}).values()])
    if rank > max_rank:
        raise AdapterRefused(f"the adapter has rank {rank}, above --max-lora-rank {max_rank}")


def check_targets(config: LoraConfig, modules: Mapping[str, tuple[int, int]]) -> None:
    """PEFT is content when one of several target modules exists."""
    targets = config.target_modules
    if isinstance(targets, str):
        return  # a pattern; PEFT refuses one that matches nothing
    missing = sorted(t for t in targets or () if not any(f".{name}".endswith(f".{t}") for name in modules))
    if missing:
        there = sorted({name.rpartition(".")[2] for name in modules})
        raise AdapterRefused(
            f"target modules {', '.join(missing)} are not in the base model, which has {', '.join(there)}"
        )


def read_tensors(folder: Path, modules: Mapping[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """The weights; each must belong to a module of the base and fit its size."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise AdapterRefused(f"{folder} has no {WEIGHTS}; only safetensors are read")
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise AdapterRefused(f"{WEIGHTS} in {folder} cannot be read: {error}") from error
    if not tensors:
        raise AdapterRefused(f"{WEIGHTS} in {folder} is empty")
    for name, tensor in tensors.items():
        check_tensor(name, tensor, modules)
    return tensors


def check_tensor(name: str, tensor: torch.Tensor, modules: Mapping[str, tuple[int, int]]) -> None:
    """Place, size along the base's side, and values."""
    match = TENSOR.fullmatch(name)
    sizes = modules.get(match["module"]) if match else None
    if match is None or sizes is None:
        raise AdapterRefused(f"tensor {name} belongs to no LoRA module of the base model")
    is_input = match["part"].endswith("A")
    dimension = 1 if is_input else 0
    expected, found = sizes[0 if is_input else 1], tensor.shape[dimension] if tensor.dim() > dimension else None
    if found != expected:
        side = "input" if is_input else "output"
        raise AdapterRefused(
            f"tensor {name} has shape {list(tensor.shape)}, but the base model's {match['module']} has {side} size {expected}"
        )
    if not tensor.isfinite().all():
        raise AdapterRefused(f"tensor {name} holds values that are not finite")
