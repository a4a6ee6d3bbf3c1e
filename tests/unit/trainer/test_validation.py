"""Best step and patience follow from the losses alone, so that a resumed attempt decides the same."""

from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_trainer.validation import MEASURED, Standing, Sums, Validation, standing
from finetune_trainer.world import World
from prepared_jobs import training


def state(*losses: float, step: int = 0) -> Any:
    history = [{"step": 2 * (place + 1), MEASURED: loss} for place, loss in enumerate(losses)]
    lines = [line for each in history for line in ({"step": each["step"], "loss": 1.0}, each)]
    return SimpleNamespace(log_history=lines, global_step=step or 2 * len(losses), max_steps=20)


def watch(**settings: Any) -> Validation:
    return Validation(training(steps=20, evaluate_every_steps=2, **settings), lambda model: Sums(model, 1.0))


@pytest.mark.parametrize(
    ("losses", "min_delta", "expected"),
    [
        ([], 0.0, None),
        ([3.0], 0.0, Standing(0, 3.0, 3.0, 0)),
        ([3.0, 2.0, 2.5, 2.0], 0.0, Standing(1, 2.0, 2.0, 2)),
        pytest.param([3.0, 2.9, 2.8], 0.15, Standing(2, 2.8, 2.8, 0), id="small-gains-add-up"),
        pytest.param([3.0, 2.9], 0.15, Standing(1, 2.9, 2.9, 1), id="the-best-needs-no-such-gain"),
    ],
)
def test_what_the_losses_come_to(losses: list[float], min_delta: float, expected: Standing | None) -> None:
    assert standing(enumerate(losses), min_delta) == expected


def test_it_is_measured_at_its_steps_and_at_the_last() -> None:
    made = state(step=20)
    for step in (1, 2, 3, 20):
        made.global_step = step
        watch().step_ended(made, float(step))
    assert [line["step"] for line in made.log_history] == [2, 20]
    assert watch().loss_at(made) == 20.0
    made.global_step = 4
    assert watch().loss_at(made) is None


def test_several_processes_come_to_one_figure() -> None:
    class Two(World):
        def gathered(self, value: Any) -> list[Any]:
            return [value, Sums(7.0, 3.0)]

    made = state(step=2)
    Validation(training(steps=20, evaluate_every_steps=2), lambda model: Sums(model, 1.0), Two()).step_ended(made, 5.0)
    assert [line[MEASURED] for line in made.log_history] == [3.0]


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(Failure, match="the loss on the validation rows became nan in step 2") as caught:
        watch().step_ended(state(step=2), float("nan"))
    assert caught.value.reason is Reason.NON_FINITE_LOSS


def test_patience_ends_it_and_the_best_is_published() -> None:
    patient = watch(patience=2, publish_best=True)
    assert not patient.is_over(state(3.0, 2.0, 2.5))
    ended = state(3.0, 2.0, 2.5, 2.5)
    assert patient.is_over(ended)
    assert not watch().is_over(ended), "only where it is asked for"
    outcome = patient.outcome(ended)
    assert (outcome.published_step, outcome.last_step, outcome.loss) == (4, 8, 2.0)
    assert outcome.message == (
        "Stopped at step 8 of 20: the last 2 evaluations did not lower the validation loss; "
        "published is step 4, the lowest validation loss (2)."
    )
    assert watch().outcome(ended).published_step == 8
    assert (patient.best_to_keep(ended), watch().best_to_keep(ended)) == (4, None)
