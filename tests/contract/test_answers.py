"""Answers a trained model writes, beside their references: every metric of them, in evaluation.json and in the gate."""

from pathlib import Path

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.matrix import ON_REQUEST
from finetune_api.v1alpha1.evaluation import AnswerFormat, EvaluationSpec, GateRule
from finetune_api.v1alpha1.reinforcement import RegexReward
from finetune_stage.scores import EvaluationFile
from prepared_jobs import COLOURS, colour_rows, job_store, prepare_job, train_here, training

EVALUATION = EvaluationSpec(
    metrics=["ExactMatch", *ON_REQUEST],
    answer_format=AnswerFormat(regex=RegexReward(pattern=f"^ ?({'|'.join(COLOURS)})$")),
    max_new_tokens=8,
    gate=[
        GateRule(metric="Chrf", min_delta_versus_base=5),
        GateRule(metric="FormatCompliance", min=0.9, beats=["Base"]),
        GateRule(metric="LatencyP95Seconds", max=60),
    ],
)


def test_every_metric_of_written_answers_is_computed_and_gated(bucket: str, secret: Path, tmp_path: Path) -> None:
    settings = training(
        steps=60, batch_size=8, micro_batch_size=4, checkpoint_every_steps=60, learning_rate=2e-2, max_length=96
    )
    adapter = ResolvedAdapterSpec(type="LoRA", rank=8, alpha=16, dropout=0.0)
    rows = {"train": colour_rows(96), "test": colour_rows(24, 200)}
    config = prepare_job(bucket, secret.parent, rows, adapter=adapter, settings=settings, evaluation=EVALUATION)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.evaluation is not None
    assert trained.evaluation.base is not None
    tuned, base = trained.evaluation.tuned, trained.evaluation.base
    assert tuned.keys() == base.keys() == {"ExactMatch", *ON_REQUEST}
    assert tuned["ExactMatch"] == tuned["FormatCompliance"] == tuned["TokenF1"] == tuned["RougeL"] == 1.0
    assert tuned["Chrf"] == 100 > base["Chrf"]
    assert tuned["Bleu"] == 0, "no answer has four tokens"
    assert 0 < tuned["LatencyP50Seconds"] <= tuned["LatencyP95Seconds"]
    assert trained.gate_passed, trained.evaluation.gate
    stored = EvaluationFile.model_validate_json(job_store(config, secret.parent).get("evaluation.json"))
    assert all(score.values and score.terms and score.seconds for score in stored.tuned)
