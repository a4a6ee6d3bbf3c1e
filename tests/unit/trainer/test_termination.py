"""A termination message fits, also that of a training of which much can be said."""

from finetune_api.model import MAX_MESSAGE
from finetune_api.pods import MAX_SUMMARY_BYTES, Summary, Trained
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, Diagnosis, EvaluationStatus, GateResult
from finetune_stage.outcome import failed, termination_message


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
