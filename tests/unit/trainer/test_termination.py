"""A termination message fits, also that of a training of which much can be said; an error in it has its reason and exit code."""

import dataclasses
import json
from typing import Any

import pytest

from finetune_api.model import MAX_MESSAGE
from finetune_api.pods import MAX_SUMMARY_BYTES, Prepared, Summary, Trained
from finetune_api.reasons import EXIT_CODES, Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import (
    ArtifactStatus,
    Choice,
    DatasetStatus,
    Diagnosis,
    EvaluationStatus,
    GateResult,
    JobError,
    PlanStatus,
)
from finetune_stage.outcome import exit_code, failed, termination_message


def test_a_failure_of_any_length_is_told() -> None:
    """As one of ten findings whose files have the longest names a store allows."""
    error = failed("Prepare", Failure(Reason.DATA_INVALID, "y" * (MAX_MESSAGE + 1))).error
    assert error is not None
    assert (error.code, error.message) == ("DataInvalid", "y" * (MAX_MESSAGE - 1) + "…")


def test_a_long_diagnosis_is_left_to_evaluation_json() -> None:
    uri = "s3://bucket/" + "f" * 400
    figures = {f"Metric{i}": 1.2345678901234 for i in range(8)}
    evaluation = EvaluationStatus(
        split="test",
        rows=10**6,
        base=figures,
        tuned=figures,
        gate=[GateResult(metric="PreferenceAccuracy", passed=False, message="x" * 512)] * 16,
        diagnosis=[Diagnosis(kind="LearningRateTooHigh", message="y" * 512)] * 5,
    )
    artifact = ArtifactStatus(kind="Adapter", uri=uri, digest="sha256:" + "a" * 64, manifest_uri=uri)
    trained = Trained(
        artifact=artifact,
        evaluation=evaluation,
        gate_passed=False,
        trained_tokens=10**9,
        steps=10**5,
        skipped_batch="w" * 1500,
        tracking_error="z" * 700,
    )
    message = termination_message(Summary(stage="Train", trained=trained))
    assert len(message) <= MAX_SUMMARY_BYTES
    read = Summary.model_validate_json(message).trained
    assert read is not None
    assert read.evaluation is not None
    assert read.artifact == artifact
    assert len(read.evaluation.gate or []) == 16


class TestTerminationMessage:
    def test_it_fits_and_stays_json(self) -> None:
        error = JobError(code="DataInvalid", message="ü" * 4000)
        data = termination_message(Summary(stage="Prepare", error=error))
        assert len(data) <= MAX_SUMMARY_BYTES
        assert json.loads(data)["error"]["message"].endswith("ü…")

    def test_choices_lose_words_before_they_are_left_out(self) -> None:
        choices = [Choice(field=f"training.field{i}", value="1", reason="because " * 60) for i in range(32)]
        prepared = Prepared(dataset=DatasetStatus(format="Text", splits=[]), plan=PlanStatus(choices=choices, steps=1))
        data = json.loads(termination_message(Summary(stage="Prepare", prepared=prepared)))
        assert len(data["prepared"]["plan"]["choices"]) == 32
        wide = [choice.model_copy(update={"value": "v" * 256}) for choice in choices]
        prepared = prepared.model_copy(update={"plan": PlanStatus(choices=wide, steps=1)})
        message = termination_message(Summary(stage="Prepare", prepared=prepared))
        assert len(message) <= MAX_SUMMARY_BYTES
        assert 0 < len(json.loads(message)["prepared"]["plan"]["choices"]) < 32

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (Failure(Reason.MODEL_NOT_FOUND, "gone"), Reason.MODEL_NOT_FOUND),
            (MemoryError(), Reason.OUT_OF_MEMORY),
            (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), Reason.OUT_OF_MEMORY),
            (KeyError("boom"), Reason.INTERNAL_ERROR),
        ],
    )
    def test_errors_have_exit_codes(self, error: Exception, reason: Reason) -> None:
        try:
            raise error
        except Exception as caught:
            summary = failed("Train", caught)
        assert summary.error is not None
        assert summary.error.code == reason
        assert exit_code(summary) == EXIT_CODES[reason]

    def test_a_bug_says_where(self) -> None:
        no_dataclass: Any = object()
        try:
            dataclasses.replace(no_dataclass)
        except TypeError as caught:
            summary = failed("Train", caught)
        assert summary.error is not None
        assert "TypeError in dataclasses.py:" in summary.error.message
