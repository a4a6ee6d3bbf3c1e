"""What can be done with an artifact: the one rule for the trainer's mark, the operator's refusals and the documentation.

The rules are those of vLLM's own check of an adapter: plain low-rank updates of linear layers, rank at most 512, no DoRA,
nothing trained beside them. Pure.
"""

from finetune_api.v1alpha1.adapter import AdapterType
from finetune_api.v1alpha1.finetunejob_status import Servable

HIGHEST_RANK = 512
"""The largest maxLoraRank vLLM accepts."""
SCORERS = ("reward", "classification")
"""Methods whose models score texts."""

BY_ADAPTER: dict[AdapterType, tuple[Servable, str]] = {
    "Full": ("Merged", "it is a whole model"),
    "DoRA": ("Merged", "vLLM does not know DoRA's magnitudes; the transformers server does"),
    "QDoRA": ("Merged", "vLLM does not know DoRA's magnitudes; the transformers server does"),
    "IA3": ("Merged", "model servers load low-rank adapters, and IA3 scales channels"),
    "Prefix": ("No", "a prefix lives in the attention cache, and no model server puts one there"),
    "Prompt": ("No", "virtual tokens are no tokens of the vocabulary, and no model server takes them"),
}


def servable(
    method: str, adapter: AdapterType, rank: int = 1, *, new_tokens: bool = False, experts: bool = False
) -> tuple[Servable, str]:
    """How an artifact can be served, and why; ``rank`` is the highest of any layer, ``new_tokens`` whether it has a vocabulary of
    its own, ``experts`` whether those of a mixture learned."""
    if method in SCORERS:
        return "No", f"a model of method {method} gives scores, not text"
    if new_tokens:
        return "Merged", "it brings new tokens, and model servers keep the vocabulary of the base for all adapters"
    if adapter in BY_ADAPTER:
        return BY_ADAPTER[adapter]
    if experts:
        return "Merged", "it changes experts of a mixture, and model servers load low-rank updates of linear layers"
    if rank > HIGHEST_RANK:
        return "Merged", f"its rank {rank} is above {HIGHEST_RANK}, vLLM's highest"
    return "Adapter", f"a low-rank adapter of rank {rank}"
