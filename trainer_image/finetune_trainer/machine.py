"""What this machine is: how many threads it may use, its device, the arithmetic it is good at."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import MemoryMeasured

CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Numerics:
    """Where and in which arithmetic a model runs."""

    device: Literal["cpu", "cuda"]
    bf16: bool
    """Forward passes under bfloat16 autocast."""

    def autocast(self) -> Any:
        """The context of a forward pass outside of the trainer, which has its own."""
        import torch

        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16)


PEAK = "peakMemory"
"""Of a line of the TrainerState: bytes allocated, bytes reserved."""
OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed", "defaultcpuallocator")
"""What errors say that are of no type of their own: CUDA's, NCCL's, cuBLAS's and the CPU allocator's."""


LESS_TRAINING = "a smaller training.microBatchSize or maxLength, or gradientCheckpointing: true, needs less"
"""What helps where training ran out of memory."""


@contextmanager
def naming_memory(doing: str, cure: str = LESS_TRAINING) -> Iterator[None]:
    """Running out of memory becomes an end with a sentence that says what helps."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(words in str(error).casefold() for words in OUT_OF_MEMORY):
            raise
        raise Failure(Reason.OUT_OF_MEMORY, f"out of memory while {doing}; {cure}") from error


def note_peak(state: Any) -> None:
    """What training took of the GPU so far, into the TrainerState: a later attempt, which may only publish, has it from there."""
    import torch

    if torch.cuda.is_available():
        peak = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
        state.log_history.append({"step": state.global_step, PEAK: peak})


def peak_of(state: Any) -> MemoryMeasured | None:
    """The most that any attempt took; None on a CPU."""
    peaks = [line[PEAK] for line in state.log_history if PEAK in line]
    if not peaks:
        return None
    allocated, reserved = map(max, zip(*peaks, strict=True))
    return MemoryMeasured(allocated_bytes=allocated, reserved_bytes=reserved)


def pin_threads() -> int:
    """Fix the number of threads, so that sums are made in the same order in every attempt; before torch is imported."""
    threads = thread_count(os.environ.get("OMP_NUM_THREADS"), CGROUP_CPU_MAX)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    return threads


def thread_count(stated: str | None, cpu_max: Path) -> int:
    """As stated, else the container's CPU limit, else the processors this process may run on."""
    if stated and stated.isdigit() and int(stated) > 0:
        return int(stated)
    limit, _, period = cpu_max.read_text().partition(" ") if cpu_max.is_file() else ("max", "", "")
    if limit != "max":
        return max(1, int(limit) // int(period))
    return len(os.sched_getaffinity(0))


def choose_numerics(precision: Literal["BFloat16", "Float32", "Auto"], gpus: int = 0) -> Numerics:
    """The device is the GPU where there is one; Auto takes bfloat16 where the hardware computes in it.

    ``gpus``: how many the pod asked for. Raises Failure where torch sees none of them: the CPU would take days, and an optimizer that
    pages its moments out of the GPU would quietly be another.
    """
    import torch

    if torch.cuda.is_available():
        return Numerics(
            "cuda", precision == "BFloat16" or (precision == "Auto" and torch.cuda.is_bf16_supported(False))
        )
    if gpus:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"backend.kubernetes.gpus is {gpus}, but torch {torch.__version__} sees no GPU in this pod: the image must be built for the "
            "node's driver (CUDA), and the node must give the pod its devices; set gpus to 0 to train on the CPU",
        )
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Numerics("cpu", precision == "BFloat16" or (precision == "Auto" and capable))
