"""Suites that lie in gs://, of both kinds. Google is played (vertex_stand_in)."""

import json
from pathlib import Path

import pytest

from finetune_api.v1alpha1.dataset import Suite
from finetune_api.v1alpha1.evaluation import EvaluationSpec, EvaluationSuite
from finetune_api.v1alpha1.references import SecretRef
from finetune_stage.outcome import Places
from finetune_storage import google_cloud
from finetune_trainer.data.contamination import guarded_suite
from finetune_trainer.data.suites import prepare_suites
from finetune_trainer.data.words import runs
from tiny_models import tiny_tokenizer
from vertex_stand_in import Vertex

TEXT = "whoever walks along the river in the early morning hears the herons long before the fog lets anyone see them"
GOOGLE = SecretRef(name="google")


@pytest.fixture
def google(vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> Vertex:
    """The only address of gs:// that there is."""
    monkeypatch.setattr(google_cloud, "URL", vertex.url)
    return vertex


def test_suites_in_a_bucket_of_google_are_read(google: Vertex, tmp_path: Path) -> None:
    places = Places(secrets_dir=tmp_path / "secrets", work_dir=tmp_path / "work", secret_wait=0.2)
    (places.work_dir / "data").mkdir(parents=True)
    google.objects["exams/one.jsonl"] = json.dumps({"text": TEXT}).encode() + b"\n"
    found = guarded_suite(Suite(name="exam", uri="gs://exams/*.jsonl", secret_ref=GOOGLE), places)
    assert found.meets(runs(f"so {TEXT}", 13, whole=False))
    suites = [EvaluationSuite(name="exam", uri="gs://exams/one.jsonl", secret_ref=GOOGLE)]
    [suite] = prepare_suites(EvaluationSpec(suites=suites), places, tiny_tokenizer())
    assert (suite.rows, suite.format) == (1, "Text")
