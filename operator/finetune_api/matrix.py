"""Which method goes with which adapter: the one table the operator refuses by, the trainer is tested by, the docs show.

A method or adapter missing from SUPPORTED_… is known by name only; a pair in REFUSED is possible in neither.
"""

from collections.abc import Iterable
from typing import Literal, get_args

from finetune_api.v1alpha1.adapter import AdapterType
from finetune_api.v1alpha1.evaluation import Metric

MethodName = Literal["sft", "cpt", "dpo", "kto", "orpo", "reward", "ppo", "grpo", "classification"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
ADAPTERS: tuple[AdapterType, ...] = get_args(AdapterType)

SUPPORTED_METHODS: tuple[MethodName, ...] = (
    "sft",
    "cpt",
    "dpo",
    "kto",
    "orpo",
    "reward",
    "ppo",
    "grpo",
    "classification",
)
SAMPLING_METHODS: tuple[MethodName, ...] = ("ppo", "grpo")
"""They learn from rewards on answers the model samples itself."""
SUPPORTED_ADAPTERS: tuple[AdapterType, ...] = ADAPTERS

HEAD_BEHIND_PADDING = (
    "rows behind virtual tokens come as embeddings, and transformers then reads the head at the padding"
)
VIRTUAL_START = "fresh virtual tokens change the answers before anything is learned, so that the base is no reference to measure from"

REFUSED: dict[tuple[MethodName, AdapterType], str] = {
    ("ppo", "IA3"): "when it was tried, its few factors did not learn from single answers; grpo compares several",
    ("ppo", "Prefix"): VIRTUAL_START,
    ("ppo", "Prompt"): VIRTUAL_START,
    ("reward", "Prompt"): HEAD_BEHIND_PADDING,
    ("classification", "Prompt"): HEAD_BEHIND_PADDING,
    (
        "classification",
        "Prefix",
    ): "encoders keep no attention cache that a prefix could stand in, and the base may be one",
}
"""Pairs that cannot work or were not tried, each with the reason as the end of a sentence."""

LATENCIES: tuple[Metric, ...] = ("LatencyP50Seconds", "LatencyP95Seconds")
ON_REQUEST: tuple[Metric, ...] = (
    "TokenF1",
    "Bleu",
    "Chrf",
    "Rouge1",
    "Rouge2",
    "RougeL",
    "FormatCompliance",
    *LATENCIES,
)
"""Of answers the model writes; computed where they are named."""
ANSWERED: frozenset[Metric] = frozenset({"ExactMatch", "Reward", *ON_REQUEST})
"""Metrics for which the model must write answers."""

METRICS: dict[MethodName, tuple[Metric, ...]] = {
    "sft": ("Loss", "Perplexity", "ExactMatch", "Accuracy", "MacroF1", *ON_REQUEST),
    "cpt": ("Loss", "Perplexity"),
    "dpo": ("Loss", "Perplexity", "PreferenceAccuracy", "RewardMargin"),
    "kto": ("Loss", "Perplexity", "PreferenceAccuracy", "RewardMargin"),
    "orpo": ("Loss", "Perplexity", "PreferenceAccuracy", "RewardMargin"),
    "classification": ("Loss", "Accuracy", "MacroF1"),
    "reward": ("Loss", "PreferenceAccuracy", "RewardMargin"),
    "ppo": ("Loss", "Perplexity", "ExactMatch", "Accuracy", "MacroF1", "Reward", *ON_REQUEST),
    "grpo": ("Loss", "Perplexity", "ExactMatch", "Accuracy", "MacroF1", "Reward", *ON_REQUEST),
}
"""What each method can be measured by."""


def foreign_metrics(method: MethodName, asked: Iterable[Metric]) -> str | None:
    """Which of the metrics a method cannot be measured by, as a sentence; None where it can by all."""
    possible = METRICS[method]
    wrong = sorted(set(asked) - set(possible))
    if not wrong:
        return None
    return f"method {method} cannot be measured by {' and '.join(wrong)}; its metrics are {', '.join(possible)}."


def refusal(method: str, adapter: str) -> str | None:
    """Why a method cannot be used with an adapter, as a sentence; None where it can."""
    if method not in SUPPORTED_METHODS:
        return f"method {method} is not supported yet; supported are {', '.join(SUPPORTED_METHODS)}."
    if adapter not in SUPPORTED_ADAPTERS:
        return f"adapter {adapter} is not supported yet; supported are {', '.join(SUPPORTED_ADAPTERS)}."
    why = next((why for pair, why in REFUSED.items() if pair == (method, adapter)), None)
    if why is None:
        return None
    possible = [name for name in SUPPORTED_ADAPTERS if (method, name) not in REFUSED]
    return f"method {method} cannot be used with adapter {adapter}: {why}; use {', '.join(possible)}."


def course_refusal(method: MethodName, field: str) -> str | None:
    """Why a member of spec.training that needs the validation loss cannot be used, as a sentence; None where it can."""
    if method not in SAMPLING_METHODS:
        return None
    possible = [name for name in SUPPORTED_METHODS if name not in SAMPLING_METHODS]
    return (
        f"training.{field} goes by the loss on validation rows, which is not what method {method} lowers: leave it out. "
        f"It is supported for {', '.join(possible)}."
    )


def search_refusal(method: MethodName, processes: int) -> str | None:
    """Why training.learningRateSearch cannot be used, as a sentence; None where it can."""
    if method in SAMPLING_METHODS:
        return (
            f"training.learningRateSearch goes by the training loss, which method {method} does not lower: "
            "leave it out, or state training.learningRate."
        )
    if processes > 1:
        return (
            "training.learningRateSearch is supported for one process: leave it out, or set backend.kubernetes gpus and "
            "nodes to at most 1."
        )
    return None


def skip_refusal(method: MethodName, processes: int) -> str | None:
    """Why training.onNonFiniteLoss cannot be SkipBatch, as a sentence; None where it can."""
    if method in SAMPLING_METHODS:
        return (
            f"training.onNonFiniteLoss SkipBatch leaves out rows, and method {method} learns from answers it samples: "
            "use Fail, or leave it out."
        )
    if processes > 1:
        return (
            "training.onNonFiniteLoss SkipBatch is supported for one process: use Fail, or set backend.kubernetes gpus and "
            "nodes to at most 1."
        )
    return None


def page() -> str:
    """The table as Markdown."""
    lines = [
        "# Methods and adapters",
        "",
        "<!-- Generated from operator/finetune_api/matrix.py by `python -m finetune_api`; do not edit. -->",
        "",
        "Every cell marked ✓ is trained in a test: it gets better at rows held out "
        f"({' and '.join(SAMPLING_METHODS)}: earns more of the reward it is trained by), "
        "and the published artifact, loaded back, gives the same answers.",
        "Every other cell is refused before anything is created: `Accepted=False`, reason Unsupported.",
        "",
        "| | " + " | ".join(ADAPTERS) + " |",
        "|---" * (len(ADAPTERS) + 1) + "|",
    ]
    for method in METHODS:
        cells = ["✓" if refusal(method, adapter) is None else "-" for adapter in ADAPTERS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", "Why not:", ""]
    lines += [f"- {method} with {adapter}: {why}." for (method, adapter), why in REFUSED.items()]
    return "\n".join(lines) + "\n"
