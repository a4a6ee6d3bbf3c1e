"""The train stage on tiny models: what it learns, and what it publishes.

How batches become gradients, and how a training ends that cannot go on, have files of their own.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import Manifest, ResolvedAdapterSpec
from finetune_api.pods import Report
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GateRule
from finetune_stage.outcome import Places
from finetune_stage.scores import RowScore
from finetune_storage import fetch_folder
from finetune_trainer import collect
from prepared_jobs import (
    COLOURS,
    FULL,
    LORA,
    QLORA,
    ROWS,
    TINY,
    colour_chats,
    colour_rows,
    job_store,
    prepare_job,
    texts,
    train_here,
    training,
)
from published_models import fetched, loaded, published, scores
from report_server import ReportServer
from tiny_models import write_tiny_llama

ANSWERS = EvaluationSpec(
    metrics=["Loss", "Perplexity", "ExactMatch", "Accuracy"],
    labels=list(COLOURS),
    max_new_tokens=8,
    gate=[
        GateRule(metric="Accuracy", min=0.9, beats=["Base", "MajorityClass"]),
        GateRule(metric="Loss", max_ratio_to_base=0.9),
    ],
)
TEXT = EvaluationSpec(metrics=["Loss", "Perplexity"], gate=[GateRule(metric="Loss", max_ratio_to_base=0.8)])
LEARNING = training(steps=60, checkpoint_every_steps=30, batch_size=8, micro_batch_size=4, learning_rate=2e-2)
CHATS = {"train": colour_chats(96), "test": colour_chats(24, 200)}
TEXTS = {"train": texts(200), "test": texts(12, 300)}


def assert_same(found: list[RowScore], published: list[RowScore]) -> None:
    assert [(each.id, each.tokens, each.exact, each.label_correct) for each in found] == [
        (each.id, each.tokens, each.exact, each.label_correct) for each in published
    ]
    assert [each.nll for each in found] == pytest.approx([each.nll for each in published], abs=1e-4)


@pytest.mark.parametrize(
    ("adapter", "rows", "steps"),
    [
        pytest.param(LORA, ROWS, 60, id="lora"),
        pytest.param(LORA, CHATS, 150, id="lora-messages"),
        pytest.param(QLORA, ROWS, 60, id="qlora"),
    ],
)
def test_an_adapter_learns_and_its_files_alone_give_the_same_answers(
    bucket: str, secret: Path, tmp_path: Path, adapter: ResolvedAdapterSpec, rows: dict[str, Any], steps: int
) -> None:
    base = write_tiny_llama(tmp_path / "base", hidden_size=64)  # bitsandbytes quantises blocks of 64 weights
    settings = LEARNING.model_copy(update={"steps": steps})
    config = prepare_job(bucket, secret.parent, rows, adapter=adapter, settings=settings, evaluation=ANSWERS, base=base)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.evaluation is not None
    assert trained.gate_passed, trained.evaluation.gate
    assert trained.evaluation.tuned["ExactMatch"] == 1.0

    from safetensors.numpy import load_file

    folder = fetched(config, secret, tmp_path / "adapter", "adapter")
    stated = json.loads((folder / "adapter_config.json").read_bytes())
    assert stated["base_model_name_or_path"] == f"{bucket}/base"
    assert stated["target_modules"] == sorted(stated["target_modules"])
    weights = load_file(folder / "adapter_model.safetensors")
    assert {weight.dtype.name for weight in weights.values()} == {"float32"}, "learned in float32, QLoRA too"
    model, tokenizer = loaded(config, secret, tmp_path, base)
    found = scores(model, tokenizer, rows["test"], config, secret)
    assert_same(found, published(config, secret).tuned)
    with model.disable_adapter():
        found = scores(model, tokenizer, rows["test"], config, secret)
    assert_same(found, published(config, secret).base or [])


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_full_model_is_published_as_it_was_evaluated(bucket: str, secret: Path, tmp_path: Path, stored: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = write_tiny_llama(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=stored).save_pretrained(base)
    settings = LEARNING.model_copy(update={"learning_rate": 5e-3})
    config = prepare_job(bucket, secret.parent, ROWS, adapter=FULL, settings=settings, evaluation=ANSWERS, base=base)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.artifact.kind == "Model"
    assert trained.gate_passed, trained.evaluation
    model, tokenizer = loaded(config, secret, tmp_path, base)
    assert model.dtype == getattr(torch, stored)
    found = scores(model.float(), tokenizer, ROWS["test"], config, secret)
    assert_same(found, published(config, secret).tuned)


def test_pretraining_from_random_weights_makes_a_model_others_can_load(
    bucket: str, secret: Path, tmp_path: Path
) -> None:
    settings = training(steps=60, batch_size=8, packing=True, learning_rate=5e-3, checkpoint_every_steps=60)
    config = prepare_job(
        bucket,
        secret.parent,
        TEXTS,
        method="cpt",
        adapter=FULL,
        settings=settings,
        evaluation=TEXT,
        from_config=TINY,
    )
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.gate_passed, trained.evaluation
    model, tokenizer = loaded(config, secret, tmp_path, tmp_path / "no base")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (TINY.hidden_size, TINY.layers)
    assert_same(scores(model, tokenizer, TEXTS["test"], config, secret), published(config, secret).tuned)


def test_everything_is_listed_and_the_outcome_can_be_collected(bucket: str, secret: Path, tmp_path: Path) -> None:
    config = prepare_job(bucket, secret.parent, ROWS, evaluation=ANSWERS)
    places = Places(secrets_dir=secret.parent, work_dir=tmp_path / "none")
    with pytest.raises(Failure, match="published nothing"):
        collect.run(config, places)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert collect.run(config, places) == trained
    assert train_here(config, secret.parent, tmp_path / "none") == trained, "a later attempt has nothing to do"
    store = job_store(config, secret.parent)
    manifest = Manifest.model_validate_json(store.get("manifest.json"))
    assert {entry.path for entry in manifest.files} == {
        key for key in store.list() if not key.startswith("checkpoints/") and key != "manifest.json"
    }
    fetch_folder(store, "", tmp_path / "all", None)
    assert manifest.job is not None
    assert manifest.job.artifact.digest == trained.artifact.digest
    assert manifest.job.versions["torch"]
    assert not trained.gate_passed, "eight steps are too few"
    assert "Gate: **failed**" in store.get("adapter/README.md").decode()
    assert not [key for key in store.list("checkpoints/") if key.endswith("README.md")], "a card for nobody takes time"


@pytest.mark.parametrize("lost", ["manifest.json", "adapter/manifest.json", "evaluation.json"])
def test_an_attempt_that_died_while_publishing_is_finished(
    bucket: str, secret: Path, tmp_path: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = prepare_job(bucket, secret.parent, ROWS, evaluation=ANSWERS)
    first = train_here(config, secret.parent, tmp_path / "first")
    store = job_store(config, secret.parent)
    before = store.get("manifest.json")
    store.delete(["manifest.json", lost])
    capsys.readouterr()
    assert train_here(config, secret.parent, tmp_path / "second") == first
    assert store.get("manifest.json") == before
    said = capsys.readouterr().out
    assert "step 8/8" not in said, "training is not repeated"
    assert "evaluating the base" not in said


def test_progress_is_reported_by_us_alone(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ReportServer()
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", server.url)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
    config = prepare_job(bucket, secret.parent, ROWS)
    train_here(config, secret.parent, tmp_path / "work")
    server.close()
    assert {authorization for authorization, _ in server.seen} == {"Bearer secret"}
    reports = [Report.model_validate(body) for _, body in server.seen]
    assert [report.trainer_status.progress_percentage for report in reports][-1] == 100
    assert [checkpoint.step for checkpoint in reports[-1].checkpoints or []] == [6, 8]
    # transformers' own callback writes microseconds
    assert all(len(str(report.trainer_status.last_updated_time)) == len("2026-01-01T00:00:00Z") for report in reports)


def test_padding_changes_no_answer(bucket: str, secret: Path, tmp_path: Path) -> None:
    """Prompts of unlike length, one by one and as a batch."""
    from finetune_trainer.batching import BATCH_TOKENS

    rows = [row | {"prompt": "thing " * (i % 4) + row["prompt"]} for i, row in enumerate(colour_rows(12))]
    both = {"train": rows, "test": rows}
    config = prepare_job(bucket, secret.parent, both, adapter=LORA, evaluation=ANSWERS, settings=LEARNING)
    train_here(config, secret.parent, tmp_path / "work")
    together = published(config, secret)
    assert all(row.exact for row in together.tuned)
    store = job_store(config, secret.parent)
    store.delete(["manifest.json", "checkpoints/base-scores.json"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BATCH_TOKENS, "cpu", 1)
        train_here(config, secret.parent, tmp_path / "again")
    alone = published(config, secret)
    assert_same(alone.tuned, together.tuned)
    assert_same(alone.base or [], together.base or [])


def test_without_held_out_rows_a_gate_cannot_pass(bucket: str, secret: Path, tmp_path: Path) -> None:
    rows = {"train": colour_rows(12)}
    settings = training(steps=1)
    free = prepare_job(bucket, secret.parent, rows, name="free", settings=settings)
    trained = train_here(free, secret.parent, tmp_path / "free")
    assert (trained.evaluation, trained.gate_passed) == (None, True)
    gated = prepare_job(bucket, secret.parent, rows, name="gated", settings=settings, evaluation=ANSWERS)
    trained = train_here(gated, secret.parent, tmp_path / "gated")
    assert not trained.gate_passed
    assert trained.evaluation is not None
    assert all("no held-out rows" in result.message for result in trained.evaluation.gate or [])
