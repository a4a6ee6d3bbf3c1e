"""What went wrong, in words: from the curves of metrics.jsonl and the figures of the evaluation. Pure.

Each finding says what was seen, with its numbers, and what to change. Nothing is found where nothing stands out: these are
rules of thumb, and only the gate decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

from finetune_api.v1alpha1.finetunejob_status import Diagnosis
from finetune_trainer.suites import Loss

FEW_TRAINING_ROWS = 100
FEW_HELD_OUT_ROWS = 30
MANY_PASSES = 10.0
RISEN = 1.2
"""A loss this many times its lowest has risen."""
SPIKE = 1.5
"""A loss this many times the median of the five before it is a spike."""
FLAT = 0.95
"""A loss still above this share of its beginning has hardly fallen."""
LEARNED_BY_HEART = 2.0
"""Held-out loss this many times the training loss, where it began at no such ratio."""
SMALLEST_GAP = 0.2
"""In nats: below it a ratio of two small losses says nothing."""

TRIFLE = 0.02
"""A figure on other tasks that is worse by less than this share of the base's is not called forgotten."""


@dataclass(frozen=True)
class Evidence:
    """What a training left behind. Losses are in nats per token."""

    losses: list[tuple[int, float]]
    """(step, training loss), as logged."""
    train_rows: int
    held_out_rows: int
    passes: float
    """Over the training rows."""
    learning_rate: float
    comparable: bool
    """Whether training loss and held-out loss are of the same kind (sft, cpt)."""
    base_loss: float | None = None
    """On the held-out rows, as the next."""
    tuned_loss: float | None = None
    forgotten: Sequence[Loss] = ()
    """On rows of other tasks."""
    validation: Sequence[tuple[int, float]] = ()
    """(step, validation loss), where the last step is published and not the best."""

    @property
    def begun(self) -> float:
        """The training loss of the first logged steps."""
        return mean(loss for _, loss in self.losses[:3])

    @property
    def ended(self) -> float:
        """That of the last ones."""
        return mean(loss for _, loss in self.losses[-3:])


Rule = Callable[[Evidence], Diagnosis | None]


def diagnose(evidence: Evidence) -> list[Diagnosis]:
    """All that stands out, in the order in which to look at it."""
    return [found for rule in RULES if (found := rule(evidence)) is not None]


def too_fast(seen: Evidence) -> Diagnosis | None:
    """The loss went up again and stayed there."""
    if len(seen.losses) < 6:
        return None
    step, lowest = min(seen.losses[:-3], key=lambda point: point[1])
    if seen.ended < RISEN * lowest or seen.ended - lowest < SMALLEST_GAP:
        return None
    return Diagnosis(
        kind="LearningRateTooHigh",
        message=f"The training loss rose from {lowest:.3g} at step {step} to {seen.ended:.3g} at the end, with a peak learning rate of "
        f"{seen.learning_rate:g}. Try a third of training.learningRate, or a longer training.warmupRatio.",
    )


def unstable(seen: Evidence) -> Diagnosis | None:
    """Spikes from which the loss came back."""
    spikes = [
        (step, loss, before)
        for place, (step, loss) in enumerate(seen.losses)
        if place >= 5
        and loss > SPIKE * (before := median(each for _, each in seen.losses[place - 5 : place]))
        and loss - before > SMALLEST_GAP
    ]
    if not spikes or too_fast(seen) is not None:
        return None
    step, loss, before = max(spikes, key=lambda spike: spike[1] / spike[2])
    return Diagnosis(
        kind="Instability",
        message=f"The training loss jumped {len(spikes)} times, most at step {step}: {loss:.3g} after {before:.3g}. "
        "Look at the rows of that step; a larger training.batchSize, a longer warmupRatio or a lower maxGradNorm can help.",
    )


def past_its_best(seen: Evidence) -> Diagnosis | None:
    """The validation loss rose again before the published step."""
    if not seen.validation:
        return None
    (step, lowest), (_, last) = min(seen.validation, key=lambda point: point[1]), seen.validation[-1]
    if last < RISEN * lowest or last - lowest < SMALLEST_GAP:
        return None
    return Diagnosis(
        kind="Overfitting",
        message=f"The validation loss was lowest at step {step}, {lowest:.3g}, and is {last:.3g} at the last one, which is published. Set "
        "training.publishBest or training.earlyStopping, or use fewer training.epochs.",
    )


def overfitted(seen: Evidence) -> Diagnosis | None:
    """Better on the training rows, and not on others."""
    if past := past_its_best(seen):
        return past
    if not seen.comparable or seen.tuned_loss is None or len(seen.losses) < 2:
        return None
    fell = seen.ended < FLAT * seen.begun
    gap = seen.tuned_loss - seen.ended
    worse_than_base = seen.base_loss is not None and seen.tuned_loss > seen.base_loss
    if not fell or gap < SMALLEST_GAP or not (worse_than_base or seen.tuned_loss > LEARNED_BY_HEART * seen.ended):
        return None
    base = "" if seen.base_loss is None else f" (the base's {seen.base_loss:.3g})"
    return Diagnosis(
        kind="Overfitting",
        message=f"The training loss fell from {seen.begun:.3g} to {seen.ended:.3g}, the held-out loss is {seen.tuned_loss:.3g}{base}, after "
        f"{seen.passes:.1f} passes over {seen.train_rows} rows. Use fewer training.epochs, more rows, or an adapter of lower rank.",
    )


def underfitted(seen: Evidence) -> Diagnosis | None:
    """Hardly learned anything."""
    if len(seen.losses) < 2 or seen.ended < FLAT * seen.begun or too_fast(seen) is not None:
        return None
    return Diagnosis(
        kind="Underfitting",
        message=f"The training loss was {seen.begun:.3g} at first and {seen.ended:.3g} at the end of {seen.losses[-1][0]} steps. "
        f"Raise training.learningRate (now {seen.learning_rate:g}), training.epochs or an adapter's rank, or check that the answers can be told from the prompts.",
    )


def too_small(seen: Evidence) -> Diagnosis | None:
    """Too few rows to learn from, or to judge by."""
    found = []
    if seen.train_rows < FEW_TRAINING_ROWS:
        found.append(f"{seen.train_rows} training rows (fewer than {FEW_TRAINING_ROWS})")
    if 0 < seen.held_out_rows < FEW_HELD_OUT_ROWS:
        found.append(f"{seen.held_out_rows} held-out rows (fewer than {FEW_HELD_OUT_ROWS}: intervals are wide)")
    if seen.passes > MANY_PASSES:
        found.append(f"rows that were each seen {seen.passes:.0f} times")
    if not found:
        return None
    return Diagnosis(
        kind="DataTooSmall", message=f"There are {' and '.join(found)}. More rows help more than any other setting."
    )


def forgetful(seen: Evidence) -> Diagnosis | None:
    """Worse than the base on other tasks, beyond chance and by more than a trifle."""
    found = [loss for loss in seen.forgotten if abs(loss.gain.value) > TRIFLE * abs(loss.base)]
    if not found:
        return None
    worst = max(found, key=lambda loss: abs(loss.gain.value) / max(1e-9, abs(loss.base)))
    return Diagnosis(
        kind="Forgetting",
        message=f"On {worst.rows} rows of suite {worst.suite}, {worst.metric} went from {worst.base:.3g} to {worst.tuned:.3g} (gain "
        f"{worst.gain.value:+.3g}, 95 % interval {worst.gain.low:+.3g} to {worst.gain.high:+.3g}). Add rows of that kind to the "
        "training rows, or lower training.learningRate, training.epochs or an adapter's rank.",
    )


RULES: list[Rule] = [too_fast, unstable, overfitted, forgetful, underfitted, too_small]
