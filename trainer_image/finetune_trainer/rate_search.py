"""A search for the learning rate: the range test of Smith, "Cyclical Learning Rates for Training Neural Networks" (2017).

A model of its own takes steps with the job's rows and optimiser, while the rate rises by the same factor from each to the next: at
first nothing is learned, then more and more, then the training diverges. A tenth of the rate at which the smoothed loss was lowest
learns fast and is far enough from there; fast.ai's `lr_find` made that rule common. Called by :mod:`finetune_trainer.recipe`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from math import isfinite
from typing import Any, NamedTuple

from transformers import TrainerCallback

from finetune_api.artifacts import RATE_SEARCH, RateSearch, Resolved, ResolvedSearch
from finetune_api.pods import Report
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import TrainerStatus
from finetune_stage.report import Reporter, metrics_of
from finetune_storage import document
from finetune_trainer.inputs import Inputs
from finetune_trainer.train import make_ready, take_steps
from finetune_trainer.world import World

Curve = list[tuple[float, float]]
"""Rate and loss of each step."""
MARGIN = 10.0
"""Between the lowest loss and the rate that is taken."""
SMOOTHING = 0.9
"""Share of the steps before in a smoothed loss."""
DIVERGED = 3.0
"""Rise above the lowest smoothed loss, in terms of its size, at which the search ends."""
LEAST_FALL = 0.01
"""Share of the first loss it must fall by; less is noise."""
FEWEST = 10
"""Steps without which a loss that is no number is the rows' fault, not the rate's."""


class Searched(NamedTuple):
    """The steps that were taken, and why there are no more."""

    curve: Curve
    is_broken: bool
    """The loss of the step after them was no number; else all were taken, or the loss had risen."""


def with_found_rate(inputs: Inputs, trainer_of: Callable[[Inputs], Any], reporter: Reporter) -> Inputs:
    """The inputs with the rate that this attempt, or one before it, has found; ``trainer_of`` makes a trainer of a model of its own.

    Raises Failure as the training does.
    """
    store, search = inputs.store, inputs.resolved.training.learning_rate_search
    assert search is not None
    if not store.exists(RATE_SEARCH):
        trial = _trial(inputs.resolved, search)
        found = _search(trainer_of(replace(inputs, resolved=trial)), trial, search, reporter)
        store.put_new(RATE_SEARCH, document(_result(found, inputs.resolved.training.learning_rate)))
    result = RateSearch.model_validate_json(store.get(RATE_SEARCH))
    print(f"learning rate {result.learning_rate:g}: {result.reason}", flush=True)
    return replace(inputs, resolved=_with_rate(inputs.resolved, result), search=result)


def _trial(resolved: Resolved, search: ResolvedSearch) -> Resolved:
    """The job as the search trains it: the scheduler holds the highest rate, of which each step takes its share."""
    changes = {
        "steps": search.steps,
        "learning_rate": search.highest,
        "scheduler": "Constant",
        "warmup_ratio": 0.0,
    }
    return resolved.model_copy(update={"training": resolved.training.model_copy(update=changes)})


def _with_rate(resolved: Resolved, found: RateSearch) -> Resolved:
    ours = found.choice()
    choices = [ours if choice.field == ours.field else choice for choice in resolved.choices]
    training = resolved.training.model_copy(update={"learning_rate": found.learning_rate})
    return resolved.model_copy(update={"training": training, "choices": choices})


def _search(trainer: Any, trial: Resolved, search: ResolvedSearch, reporter: Reporter) -> Searched:
    """At rising rates, until all steps are taken or the training diverges."""
    print(f"searching a learning rate from {search.lowest:g} to {search.highest:g} in {search.steps} steps", flush=True)
    rising = _Rising(search, reporter)
    trainer.add_callback(rising)
    make_ready(trainer, trial, lambda: False, World())
    try:
        take_steps(trainer, trial)
    except Failure as failure:
        if failure.reason is not Reason.NON_FINITE_LOSS or len(rising.curve) < FEWEST:
            raise
        return Searched(rising.curve, is_broken=True)
    return Searched(rising.curve, is_broken=False)


class _Rising(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Sets the rate of each step, and keeps its loss; a step whose batch is left out has none."""

    def __init__(self, search: ResolvedSearch, reporter: Reporter) -> None:
        factor = search.highest / search.lowest
        self._rates = [search.lowest * factor ** (step / (search.steps - 1)) for step in range(search.steps)]
        self.curve: Curve = []
        self._reporter = reporter

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        share = self._rates[state.global_step] / args.learning_rate
        for group in optimizer.param_groups:  # LoraPlus has several, of rates of their own
            group["lr"] = group["initial_lr"] * share

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:  # the summary at the end
            return
        loss = float(logs["loss"])
        self.curve.append((self._rates[state.global_step - 1], loss))
        diverged = has_diverged(smoothed([loss for _, loss in self.curve]))
        control.should_training_stop = control.should_training_stop or diverged
        figures = {"searchStep": state.global_step, "searchSteps": len(self._rates), "searchLoss": loss}
        metrics = metrics_of(figures)
        self._reporter.send(Report(trainer_status=TrainerStatus(progress_percentage=0, metrics=metrics)))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponentially weighted means, without the pull of a beginning at 0 (Kingma and Ba 2015, section 3)."""
    sums = accumulate(losses, lambda before, loss: SMOOTHING * before + (1 - SMOOTHING) * loss, initial=0.0)
    return [value / (1 - SMOOTHING**count) for count, value in enumerate(sums) if count]


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the last of the smoothed losses is far above their lowest."""
    lowest = min(losses)
    return not isfinite(losses[-1]) or losses[-1] - lowest > DIVERGED * abs(lowest)


def _result(found: Searched, usual: float) -> RateSearch:
    """What the losses at the rates come to; ``usual`` is taken where none of them helped."""
    rates, losses = [rate for rate, _ in found.curve], smoothed([loss for _, loss in found.curve])
    lowest = losses.index(min(losses))
    fell = f"{losses[0]:.4g} to {losses[lowest]:.4g}"
    if losses[0] - losses[lowest] < LEAST_FALL * abs(losses[0]):
        rate = usual
        reason = f"usual: the search from {rates[0]:g} to {rates[-1]:.2g} found no rate that lowers the loss ({fell} at best)"
    else:
        rate = float(f"{rates[lowest] / MARGIN:.1e}")
        reason = f"a tenth of {rates[lowest]:.2g}, up to which the loss fell in the search, from {fell}"
        if lowest == len(losses) - 1 and found.is_broken:
            reason += "; the next step's loss was no number"
        elif lowest == len(losses) - 1:
            reason += "; it still fell at the end: raise learningRateSearch.highest"
    return RateSearch(learning_rate=rate, reason=reason, rates=rates, losses=losses)
