"""The adapter that serves today is scored as it was published, decides in the gate, and changes nothing of the training."""

from pathlib import Path

import pytest

from finetune_api.reasons import Failure
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GateRule
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import EarlierAdapter, SecretRef
from finetune_stage.outcome import Places
from finetune_trainer.previous import pinned
from prepared_jobs import LORA, colour_rows, prepare_job, train_here, training
from published_models import published

ROWS = {"train": colour_rows(48), "test": colour_rows(12, 200)}
GATE = [GateRule(metric="Loss", max_drop_versus_previous=0.01)]
S3 = SecretRef(name="s3")


def test_what_is_worse_than_the_previous_adapter_fails(bucket: str, secret: Path, tmp_path: Path) -> None:
    def job(name: str, evaluation: EvaluationSpec, steps: int):  # type: ignore[no-untyped-def]
        settings = training(
            steps=steps, batch_size=8, micro_batch_size=8, checkpoint_every_steps=steps, learning_rate=2e-2
        )
        return prepare_job(
            bucket, secret.parent, ROWS, name=name, adapter=LORA, settings=settings, evaluation=evaluation
        )

    loss = EvaluationSpec(metrics=["Loss"])
    config = job("first", loss, 20)
    first = train_here(config, secret.parent, tmp_path / "first")
    serving = EarlierAdapter(uri=first.artifact.uri, secret_ref=S3)
    places = Places(secrets_dir=secret.parent, work_dir=tmp_path, secret_wait=1)
    previous = pinned(serving, config.base_model, places)
    assert previous.digest == first.artifact.digest
    compared = loss.model_copy(update={"previous": previous, "gate": GATE})
    job_two = job("second", compared, 2)
    second = train_here(job_two, secret.parent, tmp_path / "second")
    assert first.evaluation is not None
    assert second.evaluation is not None
    assert second.evaluation.previous == pytest.approx(first.evaluation.tuned, abs=1e-4)
    assert not second.gate_passed
    assert "worse than the previous by at most 0.01: -" in (second.evaluation.gate or [])[0].message
    stored = published(job_two, secret)
    assert (stored.gains_on_previous or {})["Loss"].high < 0 < (stored.gains or {})["Loss"].low
    alone = train_here(job("alone", loss, 2), secret.parent, tmp_path / "alone")
    assert alone.artifact.digest is not None
    weights = [tmp_path / name / "artifact" / "adapter_model.safetensors" for name in ("second", "alone")]
    assert weights[0].read_bytes() == weights[1].read_bytes(), "the comparison changed the training"

    other = ResolvedBaseModel(uri="s3://b/other", digest="sha256:" + "0" * 64)
    with pytest.raises(Failure, match=r"and this job starts from s3://b/other .* name an adapter of the same base"):
        pinned(serving, other, places)
    with pytest.raises(Failure, match="holds a Data, no adapter of a base model"):
        pinned(serving.model_copy(update={"uri": first.artifact.uri.replace("/adapter", "/data")}), other, places)
