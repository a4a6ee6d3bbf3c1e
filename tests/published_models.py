"""What a job published, loaded back from its files alone, and the held-out rows under it."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import Manifest, Resolved, ResolvedAdapterSpec
from finetune_api.pods import JobConfig
from finetune_stage.rows import Row
from finetune_stage.scores import EvaluationFile, RowScore
from finetune_storage import fetch_folder
from prepared_jobs import FULL, QLORA, job_store

ADAPTERS = [
    pytest.param(FULL, 5e-3, id="Full"),
    pytest.param(ResolvedAdapterSpec(type="LoRA", rank=8, alpha=16, dropout=0.1), 2e-2, id="LoRA"),
    pytest.param(QLORA, 2e-2, id="QLoRA"),
]
"""Adapters and a learning rate for a tiny model each."""


def metrics(config: JobConfig, secret: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in job_store(config, secret.parent).get("metrics.jsonl").splitlines()]


def published(config: JobConfig, secret: Path) -> EvaluationFile:
    """evaluation.json."""
    return EvaluationFile.model_validate_json(job_store(config, secret.parent).get("evaluation.json"))


def weights(config: JobConfig, secret: Path) -> dict[str, str]:
    """sha256 of every safetensors file of the artifact."""
    manifest = Manifest.model_validate_json(job_store(config, secret.parent).get("manifest.json"))
    found = {each.path: each.sha256 for each in manifest.files if each.path.endswith(".safetensors")}
    assert found
    return found


def fetched(config: JobConfig, secret: Path, dest: Path, key: str) -> Path:
    """A committed folder of the job, verified."""
    fetch_folder(job_store(config, secret.parent), key, dest, None)
    return dest


def resolved(config: JobConfig, secret: Path) -> Resolved:
    """resolved.json."""
    return Resolved.model_validate_json(job_store(config, secret.parent).get("resolved.json"))


def scores_texts(config: JobConfig, secret: Path) -> bool:
    """Whether the job's model has a head."""
    return resolved(config, secret).method in ("reward", "classification")


def loaded(config: JobConfig, secret: Path, tmp_path: Path, base: Path) -> tuple[Any, Any]:
    """The published model and its tokenizer, made of the artifact's files and the base's."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

    from finetune_trainer.head import keep_quantised_weights_in_place, load_scorer

    adapter = resolved(config, secret).adapter.type
    folder = fetched(config, secret, tmp_path / "published", "model" if adapter == "Full" else "adapter")
    if scores_texts(config, secret):
        return load_scorer(folder, base, "cpu", adapter), AutoTokenizer.from_pretrained(base)
    if adapter == "Full":
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert not [path for path in folder.rglob("*") if path.is_dir()], "one adapter, and no copy beside it"
    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=quantised if adapter == "QLoRA" else None)
    keep_quantised_weights_in_place(model)
    model = PeftModel.from_pretrained(model, folder)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(base)


def scores(model: Any, tokenizer: Any, rows: list[dict[str, Any]], config: JobConfig, secret: Path) -> list[RowScore]:
    """The held-out rows under a model, by the method's own measure and with the job's metrics."""
    from finetune_trainer import methods, rewards
    from finetune_trainer.encode import encoder
    from finetune_trainer.evaluate import Exam
    from finetune_trainer.machine import Numerics

    job = resolved(config, secret)
    ids = [each.id for each in published(config, secret).tuned]
    exam = Exam(
        encoder=encoder(tokenizer, job.format, job.training.assistant_only_loss),
        split="test",
        rows=[Row(id_, row) for id_, row in zip(ids, rows, strict=True)],
        metrics=frozenset(job.evaluation.metrics or ()),
        labels=tuple(job.evaluation.labels or ()),
        max_length=job.training.max_length,
        max_new_tokens=job.evaluation.max_new_tokens or 0,
        stop_tokens=[] if scores_texts(config, secret) else model.generation_config.eos_token_id,
        judge=rewards.judge(job.method_settings),
    )
    return methods.load(job.method).score(model, exam, Numerics("cpu", bf16=False))
