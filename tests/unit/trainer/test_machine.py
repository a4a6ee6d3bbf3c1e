"""Threads follow the container's limit, memory errors become an end a person can act on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import MemoryMeasured
from finetune_trainer.machine import PEAK, choose_numerics, naming_memory, peak_of, thread_count


@pytest.mark.parametrize(
    ("stated", "cpu_max", "expected"),
    [
        pytest.param("3", "200000 100000", 3, id="stated"),
        pytest.param(None, "200000 100000", 2, id="the limit"),
        pytest.param("", "50000 100000", 1, id="never none"),
        pytest.param("0", "250000 100000", 2, id="whole processors only"),
    ],
)
def test_thread_count(tmp_path: Path, stated: str | None, cpu_max: str, expected: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(cpu_max + "\n")
    assert thread_count(stated, file) == expected


def test_without_a_limit_all_processors_count(tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    file.write_text("max 100000\n")
    assert thread_count(None, file) == thread_count(None, tmp_path / "absent") >= 1


def test_only_memory_errors_are_renamed() -> None:
    import torch

    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
    ):
        with (
            pytest.raises(Failure, match="out of memory while training, 4 rows") as caught,
            naming_memory("training, 4 rows"),
        ):
            raise error
        assert caught.value.reason is Reason.OUT_OF_MEMORY
    with pytest.raises(RuntimeError, match="shape mismatch"), naming_memory("training"):
        raise RuntimeError("shape mismatch")


def test_a_gpu_that_torch_does_not_see_is_no_cpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert choose_numerics("Float32").device == "cpu"
    with pytest.raises(Failure, match=r"gpus is 2, but torch .* sees no GPU in this pod") as caught:
        choose_numerics("Auto", 2)
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_the_peak_of_a_training_is_that_of_all_its_attempts() -> None:
    state = SimpleNamespace(log_history=[{"loss": 1.0}, {PEAK: (5, 9)}, {PEAK: [7, 8]}])
    assert peak_of(state) == MemoryMeasured(allocated_bytes=7, reserved_bytes=9)
    assert peak_of(SimpleNamespace(log_history=[{"loss": 1.0}])) is None
