"""Prepare for classification: the classes are those of the rows, and an encoder is a base for nothing else."""

from pathlib import Path

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_stage.outcome import Places
from finetune_storage import open_store
from finetune_trainer.base_model import inspect
from tiny_models import write_tiny_bert


def test_an_encoder_is_a_base_for_classification_only(bucket: str, secret: Path, tmp_path: Path) -> None:
    store = open_store(bucket, secret)
    for path in write_tiny_bert(tmp_path / "bert").iterdir():
        store.upload(path, f"bert/{path.name}")
    base = ResolvedBaseModel.model_validate({"uri": f"{bucket}/bert", "secretRef": {"name": "s3"}})
    places = Places(secrets_dir=secret.parent, work_dir=tmp_path / "work")
    found = inspect(base, tmp_path / "one", places, "classification")
    assert (found.positions, found.is_large) == (128, False)
    for method in ("sft", "reward"):
        with pytest.raises(Failure, match="BertForMaskedLM is not a causal language model") as caught:
            inspect(base, tmp_path / method, places, method)  # type: ignore[arg-type]
        assert caught.value.reason is Reason.MODEL_NOT_FOUND
