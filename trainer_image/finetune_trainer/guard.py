"""A loss or a gradient that is no number: seen before the optimiser makes weights of it, and named by step and rows.

The losses stay on the device until the end of the step: one wait in a step, however many micro-batches it has. Used by
:mod:`finetune_trainer.methods.lesson`.
"""

import math
from typing import Any

import torch

from finetune_api.artifacts import Resolved
from finetune_api.matrix import SAMPLING_METHODS
from finetune_api.reasons import Failure, Reason
from finetune_trainer import origin

MOST_ROWS = 8
"""Named in a message."""


class Guard:
    """Of one training."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._losses: list[torch.Tensor] = []

    def saw(self, loss: torch.Tensor) -> None:
        """The loss of a micro-batch; waits for nothing."""
        self._losses.append(loss.detach())

    def check(self, trainer: Any, norm: Any) -> None:
        """At the end of a step, before its gradient, of this norm, is applied. Raises Failure where it must not be."""
        losses = torch.stack(self._losses).tolist()
        self._losses = []
        wrong = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
        size = float(norm)
        if not wrong and math.isfinite(size):
            return
        what, value = ("loss", losses[wrong[0]]) if wrong else ("gradient norm", size)
        step = trainer.state.global_step + 1
        raise non_finite(what, value, step, self._rows(trainer, step, wrong))

    def _rows(self, trainer: Any, step: int, wrong: list[int]) -> str:
        """Of the micro-batches at fault, or of all; the end of a clause."""
        if self._resolved.method in SAMPLING_METHODS:  # its batches are answers
            return ""
        batches = origin.micro_batches(trainer, step)
        places = [place for number in wrong or range(len(batches)) for place in batches[number]]
        lines = [row + 1 for row in origin.rows(trainer, places)]
        named = ", ".join(map(str, lines[:MOST_ROWS]))
        more = f" and {len(lines) - MOST_ROWS} more" if len(lines) > MOST_ROWS else ""
        return f" on {'lines' if len(lines) > 1 else 'line'} {named}{more} of {self._resolved.output_folder}/{self._file()}"

    def _file(self) -> str:
        return next(split.file for split in self._resolved.splits if split.statistics.name == "train")


def non_finite(what: str, value: float, step: int, rows: str = "") -> Failure:
    """A training that has diverged; ``rows`` is the end of a clause."""
    return Failure(
        Reason.NON_FINITE_LOSS,
        f"the {what} became {value} in step {step}{rows}; a lower training.learningRate, a longer warmupRatio "
        "or precision Float32 can help",
    )
