"""How much goes into a forward pass, and what the training will take: by the memory of the stated GPU. Pure.

Called by :mod:`finetune_trainer.plan`; the prediction is :mod:`finetune_trainer.memory`'s, the choice :mod:`finetune_trainer.fitting`'s.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.matrix import METHODS, MethodName
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import MemoryPlan
from finetune_api.v1alpha1.training import TrainingSpec
from finetune_trainer import fitting
from finetune_trainer.base_model import BaseFacts
from finetune_trainer.data.classes import Classes
from finetune_trainer.data.measuring import Lengths
from finetune_trainer.data.sources import SplitName
from finetune_trainer.memory import ADAM_BYTES, DECODERS, LINEARS, Load
from finetune_trainer.plan_adapter import Inherited
from finetune_trainer.usual import USUAL

TOKENS_PER_PASS = 8192


class Situation(NamedTuple):
    """What the decisions rest on."""

    spec: FineTuneJobSpec
    base: BaseFacts
    lengths: Mapping[SplitName, Lengths]
    classes: Classes | None = None
    """classification: the rows' classes."""
    inherited: Inherited | None = None
    """What an initial adapter brings."""

    @property
    def method(self) -> MethodName:
        """The one that is stated, or sft."""
        return method_of(self.spec)

    @property
    def processes(self) -> int:
        """Of the training, which share every batch."""
        kubernetes = self.spec.backend.kubernetes if self.spec.backend else None
        return kubernetes.processes if kubernetes else 1

    @property
    def held_out(self) -> Lengths | None:
        """The split the evaluation uses: test, else validation."""
        return self.lengths.get("test") or self.lengths.get("validation")


def method_of(spec: FineTuneJobSpec) -> MethodName:
    """The one that is stated; sft without one."""
    stated = spec.method.wire() if spec.method else {}
    return next((name for name in METHODS if name in stated), "sft")


class Forecast(NamedTuple):
    """What the training will take; for the status."""

    packing_efficiency: float
    memory: MemoryPlan | None = None
    largest_micro_batch_size: int | None = None
    estimated_seconds: int | None = None


class Extent(NamedTuple):
    """How long the training is."""

    packing: bool
    max_length: int
    batch_size: int
    epochs: float | None
    steps: int
    sequences: int
    """Of an epoch."""


class Size(NamedTuple):
    """Of a forward pass."""

    micro_batch: int
    recompute: bool
    why_rows: str
    why_recompute: str


def _is_counted(method: MethodName, stated: TrainingSpec, adapter: ResolvedAdapterSpec) -> bool:
    """Whether such trainings were measured."""
    is_usual = stated.optimizer in (None, *ADAM_BYTES) and not stated.label_smoothing
    is_everywhere = set(adapter.target_modules) in ({"all-linear"}, LINEARS) and not adapter.layers
    is_even = is_everywhere and not adapter.rank_pattern and not adapter.new_tokens
    is_measured = is_usual and (not adapter.frozen_layers if adapter.type == "Full" else is_even)
    return method in ("sft", "cpt") and stated.precision != "Float32" and is_measured


def kernels(seen: Situation, adapter: ResolvedAdapterSpec) -> tuple[bool, str]:
    """Whether the layers are computed by fused kernels, and why. Raises Failure where that is stated and cannot be."""
    kubernetes = seen.spec.backend.kubernetes if seen.spec.backend else None
    has_gpu, known = bool(kubernetes and kubernetes.gpus), ", ".join(sorted(DECODERS))
    why_not = "" if has_gpu else "they run on GPUs, and backend.kubernetes.gpus is 0"
    if seen.processes > 1 and adapter.type == "Full":
        why_not = "they were not tried on a model that is spread over GPUs"
    if seen.base.shape is None:
        why_not = f"there are some for model types {known} with activation silu, and the base model is none"
    stated = (seen.spec.training or TrainingSpec()).fused_kernels
    if stated and why_not:
        raise Failure(Reason.CONFIG_INVALID, f"training.fusedKernels is true: {why_not}; leave it out")
    return (not why_not if stated is None else stated), why_not or "less time and memory, the same results"


def size(seen: Situation, adapter: ResolvedAdapterSpec, extent: Extent) -> tuple[Size, Forecast]:
    """By the memory of the stated GPU where it can be predicted, else by rule of thumb."""
    joined = seen.method == "cpt" and extent.packing
    tokens = seen.lengths["train"].kept_tokens(
        extent.max_length, whole_text=joined, whole_answers=seen.method == "reward"
    )
    sides = USUAL[seen.method].sides
    efficiency = min(1.0, tokens / max(1, extent.sequences * sides * extent.max_length))
    by_rule = _by_rule(seen, adapter, extent)
    return _fitted(seen, adapter, extent, by_rule, tokens, efficiency) or (by_rule, Forecast(efficiency))


def _by_rule(seen: Situation, adapter: ResolvedAdapterSpec, extent: Extent) -> Size:
    share, least = _share(seen, extent), least_rows(seen.spec)
    _check_rows(share, (seen.spec.training or TrainingSpec()).micro_batch_size, least, seen.processes)
    rows = _micro_batch(share, extent.max_length * USUAL[seen.method].sides, least)
    thumb = f"at most {TOKENS_PER_PASS} tokens per forward pass" + (f", but {least} rows" if least > 1 else "")
    prefix = adapter.type == "Prefix"
    why = "a prefix lives in the attention cache" if prefix else "true from a billion parameters on"
    return Size(rows, seen.base.is_large and not prefix, thumb, why)


def _share(seen: Situation, extent: Extent) -> int:
    """Of a batch, one process's rows."""
    return max(1, extent.batch_size // seen.processes)


def _fitted(
    seen: Situation, adapter: ResolvedAdapterSpec, extent: Extent, by_rule: Size, tokens: int, efficiency: float
) -> tuple[Size, Forecast] | None:
    """None where no GPU is stated, or its memory cannot be predicted."""
    stated, shape = seen.spec.training or TrainingSpec(), seen.base.shape
    gpu = fitting.gpu_of(seen.spec.backend.kubernetes if seen.spec.backend else None)
    is_spread = seen.processes > 1 and adapter.type == "Full"  # memory of which was not measured
    if gpu is None or shape is None or not gpu.has_bfloat16 or is_spread:
        return None
    if not _is_counted(seen.method, stated, adapter):
        return None
    dropout = adapter.dropout if adapter.type != "Full" else 0.0
    moments: Literal["AdamW", "AdamW8bit"] = "AdamW8bit" if stated.optimizer == "AdamW8bit" else "AdamW"
    load = Load(
        adapter.type,
        extent.max_length,
        1,
        recompute=False,
        rank=adapter.rank,
        dropout=dropout,
        optimizer=moments,
        fused=kernels(seen, adapter)[0],
    )
    share = _share(seen, extent)
    found = fitting.fit(shape, gpu, fitting.Asked(load, share, stated.micro_batch_size, stated.gradient_checkpointing))
    if found is None:
        return None
    load = replace(load, rows=found.micro_batch, recompute=found.recompute)
    seconds = fitting.seconds(shape, gpu, load, round(extent.steps * share * tokens / max(1, extent.sequences)))
    room = f"{found.memory.reserved / fitting.GIB:.1f} of {gpu.memory / fitting.GIB:.1f} GiB of {gpu.name}"
    chosen = Size(found.micro_batch, found.recompute, f"{by_rule.why_rows}; needs {room}", f"needs {room}")
    return chosen, Forecast(efficiency, fitting.shown(gpu, found.memory), found.largest, seconds)


def least_rows(spec: FineTuneJobSpec) -> int:
    """Of a micro batch: kto measures how far answers to other prompts of it have drifted; of its losses one does without."""
    kto = spec.method.kto if spec.method else None
    return 2 if kto is not None and kto.loss_type != "ApoZeroUnpaired" else 1


def _check_rows(share: int, stated: int | None, least: int, processes: int) -> None:
    """Here, and not in the train pod. A stated micro batch is the most rows there may be: those that divide the batch are taken."""
    enough = [rows for rows in range(least, share + 1) if share % rows == 0]
    why = "method kto with loss Kto compares the answers of a micro batch, and one row is none"
    if not enough:
        raise Failure(Reason.CONFIG_INVALID, f"{why}: state a training.batchSize of at least {least * processes}")
    if stated is not None and stated < enough[0]:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{why}: training.microBatchSize is {stated}, and the smallest of several rows that divides the batch of {share} is "
            f"{enough[0]}; state at least that, or leave it out",
        )


def _micro_batch(batch: int, row_tokens: int, least: int) -> int:
    most = max(least, TOKENS_PER_PASS // row_tokens)
    divisors = [size for size in range(least, batch + 1) if batch % size == 0]
    return max((size for size in divisors if size <= most), default=divisors[0])
