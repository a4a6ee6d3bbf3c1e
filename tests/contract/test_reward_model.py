"""Grpo and ppo by the scores of a reward model that an earlier job made: it is checked before anything runs, and the score rises."""

import json
import random
import signal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

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
from json_lines import stored
from learned_base import write_half_trained_llama
from prepared_jobs import (
    FULL,
    LORA,
    colour_chats,
    job_store,
    lines_until,
    prepare_job,
    start_train,
    train_here,
    training,
)
from published_models import metrics
from s3_server import S3Server

EVALUATION = {
    "metrics": ["Reward", "FormatCompliance"],
    "answerFormat": {"regex": {"pattern": "b"}},
    "generation": {"maxNewTokens": 6, "temperature": 1.0},
}


def preferred(count: int) -> list[dict[str, Any]]:
    """Of two answers the one with a b in it, whatever else there is."""
    dice = random.Random(7)
    rows = []
    for place, each in enumerate(colour_chats(count)):
        without = dice.choice(["red", "green", "".join(dice.choices("regnlu", k=dice.randint(1, 6)))])
        at = dice.randrange(len(without))
        answers = ("blue" if place % 3 == 0 else f"{without[:at]}b{without[at + 1 :]}", without)
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in answers)
        rows.append({"prompt": each["messages"][:-1], "chosen": chosen, "rejected": rejected})
    return rows


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


class Judging(NamedTuple):
    """A finished job of method reward, and the rows of those that learn from its scores."""

    config: JobConfig
    base: Path
    dataset: dict[str, Any]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Judging:
    return trained_judge(s3_server, tmp_path_factory.mktemp("judge"), LORA, settings(40, 1e-2))


def trained_judge(s3_server: S3Server, scratch: Path, adapter: ResolvedAdapterSpec, course: Any) -> Judging:
    """In a bucket of its own."""
    secret = s3_server.secret(scratch / "secrets" / "s3")
    bucket = s3_server.bucket(f"judge-{uuid4().hex[:12]}")
    base = write_half_trained_llama(scratch / "half-trained")
    config = prepare_job(
        bucket,
        secret.parent,
        {"train": preferred(96)},
        name="judge",
        method="reward",
        adapter=adapter,
        base=base,
        method_settings=MethodSpec(reward=RewardMethod()),
        settings=course,
    )
    train_here(config, secret.parent, scratch / "work")
    store = open_store(bucket, secret)
    rows = {"train": colour_chats(24), "test": colour_chats(24, 200)}
    return Judging(config, base, {split: stored(store, f"rows/{split}.jsonl", each) for split, each in rows.items()})


def learned(
    judge: Judging, secret: Path, tmp_path: Path, method: str, course: dict[str, Any] | None = None, **own: Any
) -> tuple[JobConfig, Any]:
    """A job that learns from the judge's scores, prepared and trained; its evaluation."""
    config = prepared(judge, secret, tmp_path, method, method, course, **own)
    return config, train_here(config, secret.parent, tmp_path / "work").evaluation


def prepared(
    judge: Judging,
    secret: Path,
    tmp_path: Path,
    name: str,
    method: str,
    course: dict[str, Any] | None = None,
    **own: Any,
) -> JobConfig:
    """A job that is to learn from the judge's scores."""
    bucket = judge.config.spec.output.uri
    spec = {
        "baseModel": {"uri": f"{bucket}/base"},
        "dataset": judge.dataset,
        "method": {method: {"rewardModel": {"jobRef": {"name": "judge"}}, "maxNewTokens": 6, **own}},
        "adapter": {"type": "LoRA", "rank": 8, "alpha": 16},
        "training": {"maxSteps": 16, "batchSize": 16, "maxLength": 64, "learningRate": 1e-2, "precision": "Float32"}
        | (course or {}),
        "evaluation": EVALUATION if "test" in judge.dataset else {},
        "output": {"uri": bucket, "secretRef": {"name": "s3"}},
    }
    config = judge.config.model_copy(update={"name": name, "spec": FineTuneJobSpec.model_validate(spec)})
    prepare.run(
        asked(config, judge.config, secret.parent), Places(secrets_dir=secret.parent, work_dir=tmp_path / "prepare")
    )
    return config


def test_the_score_of_an_earlier_jobs_model_rises(judge: Judging, secret: Path, tmp_path: Path) -> None:
    config, found = learned(judge, secret, tmp_path, "grpo", numGenerations=8, beta=0.02)
    assert found.tuned["Reward"] > found.base["Reward"] + 0.1
    # What the judge was taught, found without it: the score alone would rise as well if its sign were wrong.
    assert found.tuned["FormatCompliance"] > found.base["FormatCompliance"] + 0.25, (found.base, found.tuned)

    places = Places(secrets_dir=secret.parent, work_dir=tmp_path / "prepare")
    tokenizer = load_tokenizer(judge.base, "base")
    tokenizer.add_tokens(["<another>"])
    with pytest.raises(Failure, match=r"reads the tokens of .*, and this job's base .* writes others"):
        reward_model.pinned(asked(config, judge.config, secret.parent), judge.config.base_model, tokenizer, places)
    with pytest.raises(Failure, match="made by a job of method grpo; name the artifact of a job of method reward"):
        reward_model.pinned(asked(config, config, secret.parent), judge.config.base_model, tokenizer, places)


def test_ppo_learns_what_only_the_score_knows(judge: Judging, secret: Path, tmp_path: Path) -> None:
    """The judge prefers answers with a b, which no rule of the job says; how many there are is counted by a pattern."""
    course = {"maxSteps": 16, "batchSize": 24, "learningRate": 3e-3}
    config, found = learned(judge, secret, tmp_path, "ppo", course, klCoefficient=0.1)
    assert found.tuned["Reward"] > found.base["Reward"] + 1
    assert found.tuned["FormatCompliance"] > found.base["FormatCompliance"] + 0.25, (found.base, found.tuned)
    assert {"kl", "reward", "clippedShare", "answerTokens", "unendedShare"} <= metrics(config, secret)[-1].keys()
    stored = job_store(config, secret.parent).list()
    assert [key for key in stored if key.startswith("checkpoints/") and "value_head" in key]
    assert not [key for key in stored if key.startswith("adapter/") and "value_head" in key]


def test_an_interrupted_run_judged_by_a_whole_model_ends_as_an_uninterrupted_one(
    s3_server: S3Server, secret: Path, tmp_path: Path
) -> None:
    judge = trained_judge(s3_server, tmp_path / "judge", FULL, settings(6, 1e-3))
    judge = judge._replace(dataset={"train": judge.dataset["train"]})
    course = {"maxSteps": 9, "batchSize": 8, "checkpointEverySteps": 2}
    whole, broken = (
        prepared(judge, secret, tmp_path / name, name, "grpo", course, numGenerations=4) for name in ("whole", "broken")
    )
    train_here(whole, secret.parent, tmp_path / "whole")
    process = start_train(broken, secret.parent, tmp_path / "first")
    try:
        lines_until(process, "checkpoint of step 4 committed")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert not job_store(broken, secret.parent).exists("manifest.json"), "it was too fast to be interrupted"
    train_here(broken, secret.parent, tmp_path / "second")
    assert outcome(broken, secret) == outcome(whole, secret)
    assert len({reward for _, reward in outcome(whole, secret)[1]}) > 1, "the judge tells answers apart"


def outcome(config: JobConfig, secret: Path) -> tuple[bytes, list[tuple[float, float]]]:
    """The published weights, and the loss and mean score of every step."""
    weights = job_store(config, secret.parent).get("adapter/adapter_model.safetensors")
    return weights, [(line["loss"], line["reward"]) for line in metrics(config, secret)]
