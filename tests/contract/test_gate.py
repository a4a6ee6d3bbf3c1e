"""The gate on real models: it passes one that learned, and truly fails one that learned nothing or one word."""

from pathlib import Path

import pytest

from finetune_api.pods import Trained
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GateRule
from prepared_jobs import COLOURS, LORA, Rows, colour_rows, prepare_job, train_here, training

EVALUATION = EvaluationSpec(
    metrics=["Accuracy"],
    labels=list(COLOURS),
    gate=[GateRule(metric="Accuracy", beats=["Base"]), GateRule(metric="Accuracy", beats=["MajorityClass"])],
)
TEST = [*colour_rows(90, 200), *(row for row in colour_rows(270, 300) if row["completion"] == " red")]


def outcome(
    bucket: str, secret: Path, work: Path, train: Rows, *, learning_rate: float, seed: int = 42
) -> tuple[Trained, list[bool]]:
    """A trained job, and whether it beat the base and the majority class."""
    settings = training(
        steps=60, batch_size=8, micro_batch_size=4, checkpoint_every_steps=60, learning_rate=learning_rate, seed=seed
    )
    rows = {"train": train, "test": TEST}
    config = prepare_job(bucket, secret.parent, rows, adapter=LORA, settings=settings, evaluation=EVALUATION)
    trained = train_here(config, secret.parent, work)
    assert trained.evaluation is not None
    return trained, [result.passed for result in trained.evaluation.gate or []]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_model_that_learned_the_task_passes(bucket: str, secret: Path, tmp_path: Path, seed: int) -> None:
    trained, beats = outcome(bucket, secret, tmp_path / "work", colour_rows(96), learning_rate=2e-2, seed=seed)
    assert beats == [True, True], trained.evaluation
    assert trained.gate_passed


def test_an_adapter_that_learned_nothing_fails(bucket: str, secret: Path, tmp_path: Path) -> None:
    trained, beats = outcome(bucket, secret, tmp_path / "work", colour_rows(97), learning_rate=0.0)
    assert trained.evaluation is not None
    assert trained.evaluation.base == trained.evaluation.tuned
    assert beats == [False, False]
    assert not trained.gate_passed


def test_an_adapter_that_always_answers_the_majority_label_fails(bucket: str, secret: Path, tmp_path: Path) -> None:
    one_word = [row | {"completion": " red"} for row in colour_rows(96)]
    trained, beats = outcome(bucket, secret, tmp_path / "work", one_word, learning_rate=2e-2)
    assert trained.evaluation is not None
    assert trained.evaluation.tuned["Accuracy"] == trained.evaluation.majority_class
    assert beats[0], "one word is better than this base"
    assert not beats[1], "it is the majority class"
    assert not trained.gate_passed
