"""What a low-rank adapter on all linear layers changes of a base: known by its configuration, before a GPU is taken.

The experts of a mixture are stacked in a parameter each, which is no linear layer. PEFT changes them too, and the router, where it
knows the names they had as layers of their own; then it has no dropout and no magnitudes (DoRA), and takes all decoder layers.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

from finetune_api.reasons import Failure, Reason

ALL_LINEAR = "all-linear"
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Fields of a configuration that say how many experts a layer has."""
EXPERT_NAMES = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""Of router and experts, as layers of their own."""
REFUSED = {name: ("out_proj",) for name in ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")}
"""By architecture, layers that PEFT refuses: Mamba's kernels read their weights without calling them."""


OUTPUT_LAYERS = ("lm_head", "embed_out")
"""Usual names of the output layer."""


class Linear(NamedTuple):
    """All linear layers of a base."""

    why: str = "better than attention alone"
    """What they are, where that is not plain; the reason for choosing them."""
    experts: frozenset[str] = frozenset()
    """Names in adapter.targetModules that stand for router or experts."""

    def reach_experts(self, targets: Iterable[str]) -> bool:
        """Whether experts or router learn with these."""
        reached = {ALL_LINEAR, *self.experts} if self.experts else set()
        return any(target.rpartition(".")[2] in reached for target in targets)


PLAIN = Linear()


def linear_layers(config: Any) -> Linear:
    """Of a text model's configuration."""
    if config.model_type in REFUSED:
        return Linear(f"all but {', '.join(REFUSED[config.model_type])}, which Mamba's kernels do not call")
    if not any(getattr(config, name, None) for name in EXPERT_COUNTS):
        return PLAIN
    if names := _names_of_experts(config):
        return Linear("attention, router and routed experts; attention alone needs far less memory", names)
    return Linear("all but the experts of the mixture, which stay as they are")


def output_layer(name: str) -> Failure:
    """The end of a job that names it."""
    return Failure(
        Reason.CONFIG_INVALID,
        f"adapter.targetModules names the output layer ({name}): losses read its weights without calling it, so that an adapter on it "
        "would learn nothing; leave it out",
    )


def _names_of_experts(config: Any) -> frozenset[str]:
    """Those that PEFT takes for them."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    tried = LoraConfig(target_modules=list(EXPERT_NAMES))
    convert_peft_config_for_transformers(tried, SimpleNamespace(config=config), [])
    return frozenset(EXPERT_NAMES) - frozenset(tried.target_modules)
