"""Grpo by the scores of a reward model that an earlier job made: it is checked before anything runs, and the score rises."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.methods import RewardMethod
from finetune_api.v1alpha1.training import MethodSpec
from finetune_stage.outcome import Places
from finetune_storage import open_store
from finetune_trainer import prepare, reward_model
from finetune_trainer.tokenizer import load_tokenizer
from learned_base import write_half_trained_llama
from prepared_jobs import colour_chats, job_store, prepare_job, train_here, training

LORA = ResolvedAdapterSpec(type="LoRA", rank=8, alpha=16, dropout=0.0)


def preferred(count: int) -> list[dict[str, Any]]:
    """The colour that was asked for, or another."""
    chats = [each["messages"] for each in colour_chats(count)]
    other = [*chats[1:], chats[0]]
    return [
        {"prompt": mine[:-1], "chosen": mine[-1:], "rejected": theirs[-1:]}
        for mine, theirs in zip(chats, other, strict=True)
        if mine[-1] != theirs[-1]
    ]


def settings(steps: int, rate: float) -> Any:
    return training(
        steps=steps, learning_rate=rate, batch_size=16, micro_batch_size=16, max_length=64, assistant_only_loss=False
    )


def asked(config: JobConfig, of: JobConfig, secrets: Path) -> JobConfig:
    """The job with another's artifact as its reward model."""
    artifact = json.loads(job_store(of, secrets).get("manifest.json"))["job"]["artifact"]
    found = ResolvedBaseModel.model_validate(
        {"uri": artifact["uri"], "digest": artifact["digest"], "secretRef": {"name": "s3"}}
    )
    return config.model_copy(update={"reward_model": found})


def test_the_score_of_an_earlier_jobs_model_rises(bucket: str, secret: Path, tmp_path: Path) -> None:
    base = write_half_trained_llama(tmp_path / "half-trained")
    places = Places(secrets_dir=secret.parent, work_dir=tmp_path / "prepare")
    judging = prepare_job(
        bucket,
        secret.parent,
        {"train": preferred(48)},
        name="judge",
        method="reward",
        adapter=LORA,
        base=base,
        method_settings=MethodSpec(reward=RewardMethod()),
        settings=settings(30, 1e-2),
    )
    train_here(judging, secret.parent, tmp_path / "judge")
    store = open_store(bucket, secret)
    for split, rows in (("train", colour_chats(24)), ("test", colour_chats(8, 200))):
        store.put(f"rows/{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    source = {
        split: {"uri": f"{bucket}/rows/{split}.jsonl", "secretRef": {"name": "s3"}} for split in ("train", "test")
    }
    spec = {
        "baseModel": {"uri": f"{bucket}/base"},
        "dataset": source,
        "method": {
            "grpo": {
                "rewardModel": {"jobRef": {"name": "judge"}},
                "numGenerations": 8,
                "maxNewTokens": 6,
                "beta": 0.02,
            }
        },
        "adapter": {"type": "LoRA", "rank": 8, "alpha": 16},
        "training": {"maxSteps": 16, "batchSize": 16, "maxLength": 64, "learningRate": 1e-2, "precision": "Float32"},
        "evaluation": {"metrics": ["Reward"], "maxNewTokens": 6},
        "output": {"uri": bucket, "secretRef": {"name": "s3"}},
    }
    config = judging.model_copy(update={"name": "judged", "spec": FineTuneJobSpec.model_validate(spec)})
    prepare.run(asked(config, judging, secret.parent), places)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.evaluation is not None
    assert trained.evaluation.base is not None
    assert trained.evaluation.tuned["Reward"] > trained.evaluation.base["Reward"] + 0.1

    tokenizer = load_tokenizer(base, "base")
    tokenizer.add_tokens(["<another>"])
    with pytest.raises(Failure, match=r"reads the tokens of .*, and this job's base .* writes others"):
        reward_model.pinned(asked(config, judging, secret.parent), judging.base_model, tokenizer, places)
    with pytest.raises(Failure, match="made by a job of method grpo; name the artifact of a job of method reward"):
        reward_model.pinned(asked(config, config, secret.parent), judging.base_model, tokenizer, places)
