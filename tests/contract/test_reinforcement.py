"""Methods that learn from rewards on answers of their own: the reward rises, what is published is what was evaluated, an
interrupted run takes the course of an uninterrupted one."""

import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.pods import JobConfig
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GateRule
from finetune_api.v1alpha1.reinforcement import ExactMatchReward, GrpoMethod, RewardSpec
from finetune_api.v1alpha1.training import MethodSpec
from learned_base import write_half_trained_llama
from prepared_jobs import (
    FULL,
    colour_chats,
    job_store,
    lines_until,
    prepare_job,
    start_train,
    train_here,
    training,
)
from published_models import loaded, metrics, published, scores, weights

LORA = ResolvedAdapterSpec(type="LoRA", rank=16, alpha=32, dropout=0.0)
CHATS = {"train": colour_chats(24), "test": colour_chats(12, 200)}
NEW_TOKENS = 6
REWARDS = [RewardSpec(exact_match=ExactMatchReward())]
GRPO = MethodSpec(
    grpo=GrpoMethod(rewards=REWARDS, num_generations=8, max_new_tokens=NEW_TOKENS, temperature=1.0, beta=0.02)
)
EXAM = EvaluationSpec(
    metrics=["Loss", "ExactMatch", "Reward"],
    max_new_tokens=NEW_TOKENS,
    gate=[GateRule(metric="Reward", min=0.8)],
)


def prepared(bucket: str, secret: Path, base: Path, method: MethodSpec, **changes: Any) -> JobConfig:
    """A job that learns to name colours from rewards."""
    settings = {
        "steps": 32,
        "batch_size": 32,
        "micro_batch_size": 16,
        "max_length": 64,
        "assistant_only_loss": False,
        "checkpoint_every_steps": 32,
    }
    defaults: dict[str, Any] = {"rows": CHATS, "adapter": LORA, "evaluation": EXAM, "base": base}
    settings |= changes.pop("settings", {})
    name = next(iter(method.wire()))
    case = defaults | changes
    return prepare_job(
        bucket, secret.parent, method=name, method_settings=method, settings=training(**settings), **case
    )


@pytest.mark.parametrize(
    ("method", "adapter", "learning_rate"),
    [
        pytest.param(GRPO, LORA, 1e-2, id="grpo-lora"),
    ],
)
def test_the_reward_rises_and_what_is_published_is_what_was_evaluated(
    bucket: str, secret: Path, tmp_path: Path, method: MethodSpec, adapter: ResolvedAdapterSpec, learning_rate: float
) -> None:
    base = write_half_trained_llama(tmp_path / "half-trained")
    config = prepared(bucket, secret, base, method, adapter=adapter, settings={"learning_rate": learning_rate})
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.evaluation is not None
    assert trained.evaluation.base is not None
    assert trained.evaluation.base["Reward"] < 0.8
    assert trained.gate_passed, trained.evaluation
    lines = metrics(config, secret)
    first, last = (sum(line["reward"] for line in part) / 5 for part in (lines[:5], lines[-5:]))
    assert last > first + 0.1
    assert {"kl", "answerTokens", "unendedShare"} <= lines[-1].keys()
    stored = published(config, secret).tuned
    found = scores(*loaded(config, secret, tmp_path, base), CHATS["test"], config, secret)
    assert [row.reward for row in found] == [row.reward for row in stored]
    assert [row.nll for row in found] == pytest.approx([row.nll for row in stored], abs=1e-3)
    keys = [key for key in job_store(config, secret.parent).list() if key.endswith(".safetensors")]
    assert all("/ref/" not in key for key in keys), "the reference is the base"


@pytest.mark.parametrize("method", [pytest.param(GRPO, id="grpo")])
def test_an_answer_ends_at_any_of_the_models_end_tokens(
    bucket: str, secret: Path, tmp_path: Path, method: MethodSpec
) -> None:
    """A chat model ends its turn with a token that is not the tokenizer's end of text."""
    base = write_half_trained_llama(tmp_path / "half-trained")
    config = prepared(bucket, secret, base, method, settings={"steps": 2})
    trained = train_here(config, secret.parent, tmp_path / "work")
    line = metrics(config, secret)[-1]
    assert line["unendedShare"] < 0.8, "most answers of the base end by themselves"
    assert line["answerTokens"] < NEW_TOKENS
    assert trained.evaluation is not None
    assert trained.evaluation.tuned["Reward"] > 0


@pytest.mark.parametrize(
    ("method", "adapter"),
    [pytest.param(GRPO, LORA, id="grpo-lora"), pytest.param(GRPO, FULL, id="grpo-full")],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    bucket: str, secret: Path, tmp_path: Path, method: MethodSpec, adapter: ResolvedAdapterSpec
) -> None:
    """Killed in the second epoch, whose order of prompts is another than the first's."""
    base = write_half_trained_llama(tmp_path / "half-trained")
    settings = {"steps": 24, "batch_size": 16, "micro_batch_size": 8, "checkpoint_every_steps": 4}
    rows = {"train": colour_chats(21)}  # the prompt left over waits for another epoch
    configs = [
        prepared(
            bucket, secret, base, method, name=name, rows=rows, adapter=adapter, settings=settings, evaluation=None
        )
        for name in ("whole", "broken")
    ]
    whole, broken = configs
    train_here(whole, secret.parent, tmp_path / "whole")
    process = start_train(broken, secret.parent, tmp_path / "first")
    try:
        lines_until(process, "step 17/")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert not job_store(broken, secret.parent).exists("manifest.json"), "it was too fast to be interrupted"
    train_here(broken, secret.parent, tmp_path / "second")
    assert weights(broken, secret) == weights(whole, secret)
    figures = [[(line["step"], line["loss"], line["reward"]) for line in metrics(each, secret)] for each in configs]
    assert figures[0] == figures[1]
