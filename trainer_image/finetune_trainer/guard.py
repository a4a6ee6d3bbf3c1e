"""A loss or a gradient that is no number: seen before the optimiser makes weights of it, named by step and rows, and left out
where that is wanted.

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
SKIPPED = "skippedBatch"
"""Member of a line of the TrainerState's log, which every checkpoint keeps: what was left out, as a sentence."""


class Guard:
    """Of one training."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._losses: list[torch.Tensor] = []
        self._sum_before = torch.zeros(())

    def saw(self, trainer: Any, loss: torch.Tensor) -> None:
        """The loss of a micro-batch; waits for nothing."""
        if not self._losses:
            self._sum_before = trainer._tr_loss.clone()
        self._losses.append(loss.detach())

    def checked(self, trainer: Any, norm: Any) -> Any:
        """The norm of what is applied at the end of a step: of its gradient, or 0 where the step is left out. Raises Failure where
        its gradient must not be applied."""
        losses = torch.stack(self._losses).tolist()
        self._losses = []
        wrong = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
        size = float(norm)
        if not wrong and math.isfinite(size):
            return norm
        what, value = ("loss", losses[wrong[0]]) if wrong else ("gradient norm", size)
        step = trainer.state.global_step + 1
        rows = self._rows(trainer, step, wrong)
        before = skipped_batch(trainer.state)
        if self._resolved.training.on_non_finite_loss == "Fail" or before:
            raise non_finite(what, value, step, rows + (f", and {before}" if before else ""))
        self._skip(trainer, step, f"the batch of step {step} was left out, as its {what} became {value}{rows}")
        return torch.zeros(())

    def _skip(self, trainer: Any, step: int, sentence: str) -> None:
        """No parameter has a gradient, so that the optimiser changes nothing; and no mean loss counts the step."""
        for parameter in trainer.model.parameters():
            parameter.grad = None
        trainer._tr_loss = self._sum_before
        trainer._globalstep_last_logged += 1
        trainer.state.log_history.append({"step": step, SKIPPED: sentence})
        print(sentence, flush=True)

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


def skipped_batch(state: Any) -> str | None:
    """What a training has left out, as a sentence; ``state`` is the TrainerState."""
    return next((line[SKIPPED] for line in state.log_history if SKIPPED in line), None)


def non_finite(what: str, value: float, step: int, rows: str = "") -> Failure:
    """A training that has diverged; ``rows`` is the end of a clause."""
    return Failure(
        Reason.NON_FINITE_LOSS,
        f"the {what} became {value} in step {step}{rows}; a lower training.learningRate, a longer warmupRatio "
        "or precision Float32 can help",
    )
