"""A published job has its page: report.html, listed in the manifest, with the figures of evaluation.json."""

from pathlib import Path

from finetune_api.artifacts import EVALUATION, MANIFEST, REPORT, Manifest
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GateRule, GenerationSpec
from finetune_stage.scores import EvaluationFile
from prepared_jobs import COLOURS, colour_rows, job_store, prepare_job, train_here, training


def test_a_training_is_put_into_words_and_onto_a_page(bucket: str, secret: Path, tmp_path: Path) -> None:
    evaluation = EvaluationSpec(
        metrics=["Loss", "Accuracy", "MacroF1", "Chrf"],
        max_new_tokens=6,
        samples=3,
        generation=GenerationSpec(temperature=0.8, top_p=0.9, stop_strings=["e"], max_rows=8),
        labels=list(COLOURS),
        gate=[GateRule(metric="Loss", min_delta_versus_base=0.05)],
    )
    rows = {"train": colour_rows(24), "test": colour_rows(12, 60)}
    settings = training(steps=12, batch_size=4, checkpoint_every_steps=6)
    config = prepare_job(bucket, secret.parent, rows, settings=settings, evaluation=evaluation)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.evaluation is not None
    [verdict] = trained.evaluation.gate or []
    assert "better than the base by at least 0.05" in verdict.message
    assert "DataTooSmall" in [found.kind for found in trained.evaluation.diagnosis or []]
    store = job_store(config, secret.parent)
    file = EvaluationFile.model_validate_json(store.get(EVALUATION))
    assert file.summary == trained.evaluation
    assert sum(sum(row.values()) for row in (file.confusion or {}).values()) == 12
    assert [score.terms is not None for score in file.tuned] == [True] * 8 + [False] * 4
    assert REPORT in [each.path for each in Manifest.model_validate_json(store.get(MANIFEST)).files]
    page = store.get(REPORT).decode()
    assert [score.answer is not None for score in file.tuned] == [True] * 3 + [False] * 9
    assert page.count('class="prompt"') == 3
    assert "red thing 60" in page
    assert verdict.message in page
    assert page.count("<svg") >= 4
