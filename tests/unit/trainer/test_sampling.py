"""What the plan decides for methods that sample answers."""

from typing import Any

import pytest

import plan_builders
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.reconcile.finetunejob.checks import BEFORE_START, first_finding
from finetune_trainer.plan import Plan, answers_only
from plan_builders import lengths


def a_spec(grpo: dict[str, Any] | None = None, **members: Any) -> FineTuneJobSpec:
    return plan_builders.a_spec(**({"method": {"grpo": {"rewards": [{"exactMatch": {}}]} | (grpo or {})}} | members))


def plan(spec: FineTuneJobSpec, count: int = 100, positions: int | None = 2048) -> tuple[Plan, dict[str, str]]:
    """For so many rows of 50 tokens, all of them learned."""
    train, test = (lengths(*[50] * rows, answer=50) for rows in (count, 10))
    return plan_builders.plan(spec, positions, train=train, test=test)


def test_what_is_left_out_is_decided_and_shown() -> None:
    found, shown = plan(a_spec())
    assert found.method.grpo is not None
    assert found.method.grpo.model_dump(exclude={"rewards", "reward_model"}) == {
        "num_generations": 8,
        "max_new_tokens": 256,
        "temperature": 1.0,
        "beta": 0.0,
    }
    training = found.training
    assert (training.batch_size, training.epochs, training.steps) == (64, 1.0, 12), "100 prompts, eight a step"
    assert (training.max_length, training.learning_rate, found.adapter.dropout) == (320, 1e-5, 0.0)
    assert found.evaluation.metrics == ["Loss", "Perplexity", "ExactMatch", "Reward"]
    assert found.evaluation.max_new_tokens == 256
    assert {"method.grpo.beta", "method.grpo.numGenerations", "adapter.dropout"} <= shown.keys()
    assert not any(name.startswith("method.sft") for name in shown)
    assert not answers_only(a_spec()), "a chat template need not mark the assistant's turns"


def test_a_reward_model_is_kept_near_what_it_learned_from() -> None:
    found, _ = plan(a_spec(method={"grpo": {"rewardModel": {"uri": "s3://m/judge/adapter"}}}))
    assert found.method.grpo is not None
    assert found.method.grpo.beta == 0.04


def test_what_ppo_leaves_out_is_decided_and_shown() -> None:
    rewarded = {"rewards": [{"exactMatch": {}}]}
    found, shown = plan(a_spec(method={"ppo": rewarded}))
    decided = {
        "max_new_tokens": 256,
        "temperature": 1.0,
        "kl_coefficient": 0.0,
        "clip_range": 0.2,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "epochs": 4,
        "value_coefficient": 0.1,
    }
    assert found.method.ppo is not None
    assert found.method.ppo.model_dump(exclude={"rewards", "reward_model"}) == decided
    names = ["maxNewTokens", "temperature", "klCoefficient", "clipRange", "gamma", "gaeLambda", "epochs"]
    assert {f"method.ppo.{name}" for name in (*names, "valueCoefficient")} <= shown.keys()
    assert (found.training.batch_size, found.training.steps) == (32, 3), "100 prompts, four wait for another epoch"
    assert found.evaluation.metrics == ["Loss", "Perplexity", "ExactMatch", "Reward"]
    stated, _ = plan(a_spec(method={"ppo": rewarded | {"klCoefficient": 0.3, "epochs": 1}}))
    assert stated.method.ppo is not None
    assert (stated.method.ppo.kl_coefficient, stated.method.ppo.epochs) == (0.3, 1)
    judged, _ = plan(a_spec(method={"ppo": {"rewardModel": {"uri": "s3://m/judge/adapter"}}}))
    assert judged.method.ppo is not None
    assert judged.method.ppo.kl_coefficient == 0.05


def test_answers_take_at_most_half_of_the_positions() -> None:
    found, _ = plan(a_spec(), positions=128)
    assert found.method.grpo is not None
    assert (found.method.grpo.max_new_tokens, found.training.max_length) == (64, 128)


def test_steps_are_counted_in_prompts() -> None:
    spec = a_spec({"numGenerations": 4}, training={"batchSize": 12, "epochs": 2})
    assert plan(spec, count=10)[0].training.steps == 6, "three prompts a step, the tenth waits for another epoch"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (a_spec(training={"batchSize": 12}), r"no multiple of numGenerations \(8\); set it to 16"),
        (a_spec(training={"batchSize": 808}), "there are 100 training rows; set it to at most 800"),
        (a_spec(training={"maxLength": 256}), r"256 tokens, and answers of up to 256 \(maxNewTokens\) leave no room"),
        (a_spec(grpo={"rewards": [{"regex": {"pattern": "("}}]}), "no regular expression"),
        (a_spec(method={"sft": {}}, evaluation={"metrics": ["Reward"]}), "cannot be measured by Reward"),
    ],
)
def test_what_does_not_fit_together_is_refused(spec: FineTuneJobSpec, message: str) -> None:
    with pytest.raises(Failure, match=message) as caught:
        plan(spec)
    assert caught.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (a_spec(adapter={"type": "LoRA", "dropout": 0.1}), "leave adapter.dropout out"),
        (a_spec(method={"sft": {}}, evaluation={"metrics": ["Reward"]}), "cannot be measured by Reward"),
    ],
)
def test_the_operator_refuses_before_anything_is_created(spec: FineTuneJobSpec, message: str) -> None:
    finding = first_finding(BEFORE_START, spec)
    assert finding is not None
    assert message in finding.message


def test_a_job_of_grpo_is_accepted() -> None:
    assert first_finding(BEFORE_START, a_spec(adapter={"type": "LoRA", "dropout": 0.0})) is None
