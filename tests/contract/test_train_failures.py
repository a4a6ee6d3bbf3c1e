"""Trainings that cannot begin or go on: each ends with its reason, and a sentence that says what to change."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.reasons import Failure, Reason
from prepared_jobs import FULL, ROWS, job_store, prepare_job, train_here, training
from tiny_models import write_tiny_llama


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        pytest.param(8, "the gradient norm became nan in step 2", id="a-logged-step"),
        pytest.param(1000, "the gradient norm became nan in step 2", id="between-logged-steps"),
    ],
)
def test_a_diverged_training_ends_at_once(bucket: str, secret: Path, tmp_path: Path, steps: int, message: str) -> None:
    settings = training(
        steps=steps,
        checkpoint_every_steps=steps,
        learning_rate=1e30,
        scheduler="Constant",
        warmup_ratio=0.0,
        max_grad_norm=1e9,
    )
    config = prepare_job(bucket, secret.parent, ROWS, adapter=FULL, settings=settings)
    with pytest.raises(Failure, match=message) as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.NON_FINITE_LOSS
    assert not job_store(config, secret.parent).list("checkpoints/step-"), "its weights are lost"


def test_running_out_of_memory_names_the_micro_batch(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from finetune_trainer.methods.sft import SupervisedTrainer

    def greedy(*_: Any, **__: Any) -> None:
        torch.empty(2**50)

    monkeypatch.setattr(SupervisedTrainer, "compute_loss", greedy)
    config = prepare_job(bucket, secret.parent, ROWS)
    with pytest.raises(Failure, match="a micro batch of 1 rows of up to 48 tokens") as caught:
        train_here(config, secret.parent, tmp_path / "work", divisor=2)
    assert caught.value.reason is Reason.OUT_OF_MEMORY


def test_what_was_not_prepared_is_not_trained_on(bucket: str, secret: Path, tmp_path: Path) -> None:
    config = prepare_job(bucket, secret.parent, ROWS)
    job_store(config, secret.parent).put("data/train.jsonl", b'{"prompt": "other", "completion": "rows"}\n')
    with pytest.raises(Failure, match=r"train\.jsonl has sha256") as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT


def test_a_configuration_of_another_shape_is_told_by_its_first_fault(bucket: str, secret: Path, tmp_path: Path) -> None:
    config = prepare_job(bucket, secret.parent, ROWS)
    job_store(config, secret.parent).put("resolved.json", b'{"namespace": 1}')
    with pytest.raises(
        Failure, match=r"resolved\.json is not a resolved configuration: namespace: .* string$"
    ) as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT


def test_unknown_target_modules_are_answered_with_the_known_ones(bucket: str, secret: Path, tmp_path: Path) -> None:
    adapter = ResolvedAdapterSpec(type="LoRA", target_modules=("query",))
    config = prepare_job(bucket, secret.parent, ROWS, adapter=adapter)
    with pytest.raises(Failure, match=r"\['query'\].* down_proj, .*q_proj") as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_a_base_that_lacks_weights_is_not_trained_on_random_ones(bucket: str, secret: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    base = write_tiny_llama(tmp_path / "base", tied=False)
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    config = prepare_job(bucket, secret.parent, ROWS, base=base)
    with pytest.raises(Failure, match=r"lack 1 of the weights .* config.json asks for, the first lm_head.weight"):
        train_here(config, secret.parent, tmp_path / "work")


def test_a_base_that_is_no_model_is_named(bucket: str, secret: Path, tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base")
    (base / "model.safetensors").write_bytes(b"not safetensors")
    config = prepare_job(bucket, secret.parent, ROWS, base=base)
    with pytest.raises(Failure, match=f"{bucket}/base cannot be loaded") as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
