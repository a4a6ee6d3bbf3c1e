"""Curves and figures are put into words, with their numbers."""

from dataclasses import replace

import pytest

from finetune_stage.scores import Gain
from finetune_trainer.diagnosis import Evidence, diagnose
from finetune_trainer.suites import Loss

FALLING = [(step, 2.0 * 0.9**step + 0.4) for step in range(1, 31)]
GOOD = Evidence(
    losses=FALLING,
    train_rows=2_000,
    held_out_rows=200,
    passes=3.0,
    learning_rate=2e-4,
    comparable=True,
    base_loss=2.2,
    tuned_loss=0.6,
)


@pytest.mark.parametrize(
    ("seen", "kinds"),
    [
        pytest.param(GOOD, [], id="a training that went well"),
        pytest.param(replace(GOOD, tuned_loss=2.5), ["Overfitting"], id="worse than the base on other rows"),
        pytest.param(replace(GOOD, tuned_loss=1.2), ["Overfitting"], id="far from the training loss on other rows"),
        pytest.param(
            replace(GOOD, validation=[(10, 1.0), (20, 0.8), (30, 1.1)]),
            ["Overfitting"],
            id="past its best validation loss",
        ),
        pytest.param(replace(GOOD, validation=[(10, 1.0), (20, 0.8), (30, 0.9)]), [], id="hardly past it"),
        pytest.param(replace(GOOD, tuned_loss=1.2, comparable=False), [], id="dpo's loss is of another kind"),
        pytest.param(
            replace(GOOD, losses=[(s, 2.0) for s in range(30)], tuned_loss=2.2),
            ["Underfitting"],
            id="nothing was learned",
        ),
        pytest.param(
            replace(GOOD, losses=[*FALLING[:15], *((s, 3.0) for s in range(16, 31))], tuned_loss=3.1),
            ["LearningRateTooHigh"],
            id="up again, and it stayed there",
        ),
        pytest.param(
            replace(GOOD, losses=[*FALLING[:20], (21, 4.0), *FALLING[21:]]), ["Instability"], id="a spike that passed"
        ),
        pytest.param(
            replace(GOOD, forgotten=[Loss("general", "Loss", 2.0, 2.5, Gain(low=-0.6, value=-0.5, high=-0.4), 80)]),
            ["Forgetting"],
            id="worse on another task",
        ),
        pytest.param(
            replace(
                GOOD, forgotten=[Loss("general", "Loss", 2.0, 2.01, Gain(low=-0.02, value=-0.01, high=-0.001), 80)]
            ),
            [],
            id="worse by a trifle",
        ),
        pytest.param(replace(GOOD, train_rows=40), ["DataTooSmall"], id="few rows to learn from"),
        pytest.param(replace(GOOD, held_out_rows=12), ["DataTooSmall"], id="few rows to judge by"),
        pytest.param(replace(GOOD, losses=[], held_out_rows=0, tuned_loss=None), [], id="nothing to look at"),
    ],
)
def test_kinds(seen: Evidence, kinds: list[str]) -> None:
    assert [found.kind for found in diagnose(seen)] == kinds


def test_a_diagnosis_names_its_numbers_and_what_to_change() -> None:
    [found] = diagnose(replace(GOOD, tuned_loss=2.5))
    assert found.message == (
        "The training loss fell from 2.03 to 0.495, the held-out loss is 2.5 (the base's 2.2), after 3.0 passes over 2000 rows. "
        "Use fewer training.epochs, more rows, or an adapter of lower rank."
    )
