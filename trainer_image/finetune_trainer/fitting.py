"""Choose micro batch and recomputation by the memory of the stated GPU. Pure; called by :mod:`finetune_trainer.plan`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from finetune_api.model import amount
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import GpuModel, KubernetesBackend
from finetune_api.v1alpha1.finetunejob_status import MemoryPlan
from finetune_trainer.memory import Load, Memory, Shape, flops_per_token, predict

GIB = 2**30
USABLE = 0.94
"""Share of a GPU's memory a plan may reserve: CUDA's context and NCCL's buffers need the rest."""
FEW_TOKENS, ENOUGH_TOKENS = 2048, 8192
"""Of a forward pass: below the first a GPU idles, above the second it gains nothing (docs/benchmarks.md)."""


class Gpu(NamedTuple):
    """What is known of a GPU."""

    name: str
    memory: int
    """Bytes."""
    flops: float | None
    """Dense bfloat16 operations per second (data sheet); None where only the memory is stated."""
    has_bfloat16: bool = True
    """Elsewise it trains in float32."""


MODELS: dict[GpuModel, Gpu] = {
    "T4": Gpu("T4", int(14.6 * GIB), None, has_bfloat16=False),
    "L4": Gpu("L4", int(22.0 * GIB), 121e12),
    "A10": Gpu("A10", int(22.1 * GIB), 125e12),
    "L40S": Gpu("L40S", int(44.4 * GIB), 362e12),
    "A100-40GB": Gpu("A100-40GB", int(39.4 * GIB), 312e12),
    "A100-80GB": Gpu("A100-80GB", int(79.1 * GIB), 312e12),
    "H100-80GB": Gpu("H100-80GB", int(79.1 * GIB), 989e12),
    "H200": Gpu("H200", int(139.8 * GIB), 989e12),
    "B200": Gpu("B200", int(178.0 * GIB), 2250e12),
}


def gpu_of(backend: KubernetesBackend | None) -> Gpu | None:
    """The stated GPU; None without one."""
    if backend is None or not backend.gpus:
        return None
    if backend.gpu_model is not None:
        return MODELS[backend.gpu_model]
    if backend.gpu_memory is None:
        return None
    return Gpu(f"a GPU of {backend.gpu_memory}", int(amount(backend.gpu_memory)), None)


@dataclass(frozen=True)
class Asked:
    """The settings that are given, and what the spec states of the two that are chosen."""

    load: Load
    """With one row and no recomputation."""
    batch: int
    """Rows of a step on this GPU."""
    micro_batch: int | None
    recompute: bool | None


class Fit(NamedTuple):
    """A choice that fits."""

    micro_batch: int
    recompute: bool
    memory: Memory
    largest: int
    """The largest micro batch that would fit, dividing the batch or not."""


def fit(shape: Shape, gpu: Gpu, asked: Asked) -> Fit | None:
    """The fastest settings that fit; None where the adapter is not counted. Raises Failure where nothing fits."""
    room = int(gpu.memory * USABLE)
    smallest = None
    for load in _candidates(asked):
        memory = predict(shape, load)
        if memory is None:
            return None
        if memory.reserved <= room:
            return Fit(load.rows, load.recompute, memory, _largest(shape, load, room))
        smallest = min(filter(None, (smallest, memory)), key=lambda each: each.reserved)
    assert smallest is not None, "there is always a candidate"
    raise Failure(Reason.DOES_NOT_FIT, _too_much(smallest, gpu, asked))


def _candidates(asked: Asked) -> Iterator[Load]:
    """From the fastest to the smallest: keep activations while that leaves the GPU enough tokens at once, else recompute."""
    length = asked.load.length
    divisors = [rows for rows in range(asked.batch, 0, -1) if asked.batch % rows == 0]
    usual = [rows for rows in divisors if rows * length <= ENOUGH_TOKENS] or [1]
    for recompute in (False, True) if asked.recompute is None else (asked.recompute,):
        sizes = usual if asked.micro_batch is None else [asked.micro_batch]
        for rows in sizes:
            few = rows * length < min(FEW_TOKENS, asked.batch * length)
            if not (few and asked.micro_batch is None and asked.recompute is None and not recompute):
                accumulation = max(1, asked.batch // rows)
                yield replace(asked.load, rows=rows, recompute=recompute, accumulation=accumulation)


def _largest(shape: Shape, load: Load, room: int) -> int:
    """By doubling, then by halving the interval."""

    def fits(rows: int) -> bool:
        memory = predict(shape, replace(load, rows=rows))
        return memory is not None and memory.reserved <= room

    low = load.rows
    while fits(2 * low) and low < 2**20:
        low *= 2
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _too_much(memory: Memory, gpu: Gpu, asked: Asked) -> str:
    parts = ", ".join(
        f"{name} {getattr(memory, name) / GIB:.1f}" for name in Memory._fields[:5] if getattr(memory, name)
    )
    cures = [] if asked.micro_batch in (None, 1) else ["training.microBatchSize: 1"]
    cures += [] if asked.recompute is not False else ["gradientCheckpointing: true"]
    cures += ["a shorter training.maxLength"]
    cures += {"Full": ["adapter LoRA or QLoRA"], "LoRA": ["adapter QLoRA"]}.get(asked.load.adapter, [])
    return (
        f"training needs at least {memory.reserved / GIB:.1f} GiB on the GPU (GiB: {parts}), and of {gpu.name} "
        f"{gpu.memory * USABLE / GIB:.1f} GiB can be used; what needs less: {', '.join(cures)}, or a larger GPU"
    )


def seconds(shape: Shape, gpu: Gpu, load: Load, tokens: int) -> int | None:
    """A rough estimate: wide models come closer to a GPU's peak (measured on an H200: 15 % at 896, half at 8192)."""
    if gpu.flops is None:
        return None
    utilisation = min(0.5, 0.1 + 5.5e-5 * shape.hidden)
    return round(tokens * flops_per_token(shape, load) / (gpu.flops * utilisation))


def shown(gpu: Gpu, memory: Memory) -> MemoryPlan:
    """For the status."""
    return MemoryPlan(
        gpu=gpu.name, gpu_bytes=gpu.memory, **{f"{name}_bytes": getattr(memory, name) for name in Memory._fields}
    )
