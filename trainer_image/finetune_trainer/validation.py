"""The loss on the validation rows while training: which step is the best so far, and when to stop.

What was measured is kept in the trainer's log history, which every checkpoint holds: a resumed attempt decides as if it had
never been interrupted. Several processes measure a share of the rows each, and come to the same figure. Called by
:mod:`finetune_trainer.train`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from finetune_api.artifacts import ResolvedTraining
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import ValidationStatus
from finetune_trainer.world import World

MEASURED = "validation_loss"
"""Member of a line of the log history."""


class Sums(NamedTuple):
    """Over the validation rows, or over one process's share of them."""

    loss: float
    weight: float
    """What the sum is divided by: tokens, or rows."""


Measure = Callable[[Any], Sums]
"""What a model comes to on this process's share."""


class Standing(NamedTuple):
    """What the evaluations so far come to."""

    best_step: int
    best_loss: float
    """The lowest, in nats."""
    loss: float
    """The newest."""
    without_gain: int
    """Evaluations since one that lowered the loss by more than the smallest gain that counts."""


def standing(measured: Iterable[tuple[int, float]], min_delta: float) -> Standing | None:
    """Of (step, loss), oldest first; None before the first. Of equal losses the earlier step is the best."""
    found: Standing | None = None
    mark = float("inf")
    for step, loss in measured:
        gained = loss < mark - min_delta
        mark = loss if gained else mark
        if found is None:
            found = Standing(step, loss, loss, 0)
            continue
        best = (step, loss) if loss < found.best_loss else (found.best_step, found.best_loss)
        found = Standing(*best, loss, 0 if gained else found.without_gain + 1)
    return found


@dataclass(frozen=True)
class Validation:
    """Measures, and decides by what was measured."""

    training: ResolvedTraining
    measure: Measure
    world: World = field(default_factory=World)

    def step_ended(self, state: Any, model: Any) -> None:
        """Measure where it is time; ``state`` is the TrainerState."""
        step = state.global_step
        if step % self.training.evaluate_every_steps == 0 or step >= state.max_steps:
            state.log_history.append({"step": step, MEASURED: self._loss(step, model)})

    def _loss(self, step: int, model: Any) -> float:
        """The same in every process, to the last bit: they save, stop and choose together."""
        shares = self.world.gathered(self.measure(model))
        found = math.fsum(each.loss for each in shares) / max(1.0, math.fsum(each.weight for each in shares))
        if not math.isfinite(found):
            raise Failure(
                Reason.NON_FINITE_LOSS,
                f"the loss on the validation rows became {found} in step {step}; a lower training.learningRate or a longer warmupRatio "
                "can help",
            )
        return found

    def standing(self, state: Any) -> Standing | None:
        """As of this state."""
        lines = [(line["step"], line[MEASURED]) for line in state.log_history if MEASURED in line]
        return standing(lines, self.training.min_delta)

    def loss_at(self, state: Any) -> float | None:
        """What was measured at the state's step."""
        lines = (line for line in reversed(state.log_history) if MEASURED in line)
        newest = next(lines, None)
        measured: float | None = newest[MEASURED] if newest and newest["step"] == state.global_step else None
        return measured

    def is_over(self, state: Any) -> bool:
        """Whether patience is at its end."""
        found, patience = self.standing(state), self.training.patience
        return found is not None and patience is not None and found.without_gain >= patience

    def best_to_keep(self, state: Any) -> int | None:
        """The best step so far, where the best is what will be published."""
        found = self.standing(state)
        return found.best_step if found is not None and self.training.publish_best else None

    def outcome(self, state: Any) -> ValidationStatus:
        """What it came to, at the end."""
        found = self.standing(state)
        assert found is not None, "the last step is measured"
        last, best = state.global_step, self.training.publish_best
        end = f"Stopped at step {last} of {state.max_steps}"
        if self.is_over(state):
            gain = f" by more than {self.training.min_delta:g}" if self.training.min_delta else ""
            end += f": the last {found.without_gain} evaluations did not lower the validation loss{gain}"
        elif last >= state.max_steps:
            end = f"Trained to the last step, {last}"
        loss = found.best_loss if best else found.loss
        published = found.best_step if best else last
        why = "the lowest validation loss" if best else "the last"
        return ValidationStatus(
            loss=loss,
            published_step=published,
            last_step=last,
            message=f"{end}; published is step {published}, {why} ({loss:.4g}).",
        )
