"""A model whose every weight learns, spread over the processes of a training by FSDP2, and made whole again.

Transformers spreads and saves it, but keeps no optimizer of a spread model; that is done here. Called by
:mod:`finetune_trainer.recipe` and, for checkpoints, by the trainers of :mod:`finetune_trainer.methods`.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from transformers.distributed import DistributedConfig
from transformers.distributed.utils import gather_full_state_dict

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.adapter import AdapterType
from finetune_trainer.machine import Numerics
from finetune_trainer.world import World

OPTIMIZER = "optimizer.pt"
LAYER_NUMBER = re.compile(r"\.\d+(?=\.|$)")
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
"""Tied weights are stored once."""


def spread(model: Any, adapter: AdapterType, numerics: Numerics, world: World) -> Any:
    """A Full model with a share of each weight on every process: layer by layer, brought together while it computes.

    Any other, and in a training of one process, as it is. Raises Failure where it does not say what its layers are.
    """
    if adapter != "Full" or world.size == 1:
        return model
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = {LAYER_NUMBER.sub(".*", name) for name, each in model.named_modules() if type(each).__name__ in kinds}
    if not layers:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"the layers of a {type(model).__name__} are not known, so that it cannot be spread over several GPUs; use one GPU or "
            "an adapter",
        )
    # All the rest is one group, the root's: weights that are tied must be in the same one.
    model.fsdp_plan = dict.fromkeys(layers, "free_full_weight")
    config = DistributedConfig(
        fsdp_size=world.size,
        fsdp_mixed_precision=numerics.bf16,  # weights travel in bfloat16, gradients in float32
    )
    config, _, mesh = type(model).prepare_distribute_model(config)
    return type(model).maybe_distribute_model(model, config, mesh)


def is_spread(model: Any) -> bool:
    """Whether every process has a share of it only."""
    return bool(getattr(model, "is_distributed_loading_by_transformers", False))


@contextmanager
def in_step(model: Any, world: World) -> Iterator[None]:
    """For forward passes of which one process may need more than another.

    The layers of a spread model are brought together from all processes: who is done computes along until all are.
    """
    if not is_spread(model):
        yield
        return

    def announced(*_: Any) -> None:
        world.any(True)

    hook = model.register_forward_pre_hook(announced, prepend=True)  # before FSDP's, which brings weights together
    try:
        yield
    finally:
        hook.remove()
    token = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    while world.any(False):
        model(input_ids=token, attention_mask=torch.ones_like(token))


def save_optimizer(model: Any, optimizer: Any, folder: Path, world: World) -> None:
    """The moments of all weights, written by the first process; all of them call it."""
    state = get_optimizer_state_dict(model, optimizer.optimizer, options=WHOLE)
    if world.is_first:
        torch.save(state, folder / OPTIMIZER)


def load_optimizer(model: Any, optimizer: Any, folder: Path, world: World) -> None:
    """What :func:`save_optimizer` wrote, spread again."""
    state = torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu") if world.is_first else {}
    set_optimizer_state_dict(model, optimizer.optimizer, state, options=FROM_FIRST)


def load_weights(model: Any, folder: Path, world: World) -> None:
    """Those of a checkpoint, spread again."""
    state: dict[str, Any] = {}
    if world.is_first:
        for path in sorted(folder.glob("*.safetensors")):
            state |= load_file(path)
    set_model_state_dict(model, state, options=FROM_FIRST)


def made_whole(model: Any, trainer: Any, world: World) -> Any:
    """The trained model on the first process; all of them call it. The trainer of one that was spread is of no use afterwards."""
    if not is_spread(model):
        return model
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()
    model.zero_grad(set_to_none=True)
    state = gather_full_state_dict(model)
    if not world.is_first:
        return None
    config = copy.copy(model.config)
    config.distributed_config = None
    kind: Any = next(each for each in type(model).__mro__ if not issubclass(each, FSDPModule))
    with torch.device(next(model.parameters()).device):
        whole = kind(config)
    if model.can_generate():
        whole.generation_config = model.generation_config
    whole.load_state_dict(state)
    whole.tie_weights()
    return whole
