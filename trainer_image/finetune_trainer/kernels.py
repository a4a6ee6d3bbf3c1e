"""Layers of a decoder by Liger's fused Triton kernels: norms, rotary positions and the gate of the feed-forward part.

Each reads and writes memory once where PyTorch does so for every operation, and keeps less for the backward pass (Hsu et al.,
arXiv:2410.10989). The loss is left to TRL's trainer. On GPUs only, for the architectures of :mod:`finetune_trainer.memory`: there values
and gradients were compared with PyTorch's (tests/contract/test_kernels.py), and memory was measured.
"""

from typing import Any


def fuse(model: Any) -> None:
    """Put the kernels into a loaded model, before an adapter is put on it.

    They are put into the architecture's module too, for later models of the process.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(
        model, rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False
    )
