"""Decide what a method that samples answers leaves out. Pure; called by :mod:`finetune_trainer.plan`.

    numGenerations       grpo: 8; ppo: one answer to each prompt
    maxNewTokens         256, or half of the base's positions
    temperature          1
    beta                 grpo: 0, as what is checked by rule needs no leash; with a reward model 0.04 (Shao et al. 2024)
    klCoefficient        ppo: 0, as what is checked by rule needs no leash; with a reward model 0.05
    clipRange …          ppo: 0.2, gamma 1, gaeLambda 0.95, epochs 4, valueCoefficient 0.1
    batchSize            grpo: the answers to eight prompts; ppo: to 32
    dropout              0, as what is learned from is what was sampled

Learning rate and epochs are in :mod:`finetune_trainer.usual`.
"""

from math import ceil
from typing import NamedTuple, TypeVar

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.reinforcement import GrpoMethod, PpoMethod
from finetune_api.v1alpha1.training import MethodSpec
from finetune_trainer.choices import Choices
from finetune_trainer.rewards import judge

T = TypeVar("T")

USUAL_NEW_TOKENS = 256
NO_DROPOUT = (0.0, "what is learned from is what was sampled")


class Sampling(NamedTuple):
    """How many answers, and how long."""

    generations: int
    """Per prompt."""
    max_new_tokens: int
    prompts: int
    """In a usual batch."""


def filled_in(spec: FineTuneJobSpec, positions: int | None, choices: Choices) -> FineTuneJobSpec:
    """The spec with every setting of a sampling method; of other methods as it is. Raises Failure for a reward that cannot be."""
    stated = spec.method
    if stated is None or stated.rewarded() is None:
        return spec
    judge(stated)
    filled = MethodSpec(
        grpo=_grpo(stated.grpo, positions, choices) if stated.grpo else None,
        ppo=_ppo(stated.ppo, positions, choices) if stated.ppo else None,
    )
    return spec.model_copy(update={"method": filled})


def _grpo(stated: GrpoMethod, positions: int | None, choices: Choices) -> GrpoMethod:
    chosen = {
        "num_generations": choices.take("method.grpo.numGenerations", stated.num_generations, 8, "usual"),
        "max_new_tokens": _max_new_tokens("grpo", stated.max_new_tokens, positions, choices),
        "temperature": choices.take("method.grpo.temperature", stated.temperature, 1.0, "the model as it is"),
        "beta": choices.take("method.grpo.beta", stated.beta, *_leash(stated, 0.04)),
    }
    return stated.model_copy(update=chosen)


def _ppo(stated: PpoMethod, positions: int | None, choices: Choices) -> PpoMethod:
    def take(name: str, value: T | None, chosen: T, why: str) -> T:
        return choices.take(f"method.ppo.{name}", value, chosen, why)

    chosen = {
        "max_new_tokens": _max_new_tokens("ppo", stated.max_new_tokens, positions, choices),
        "temperature": take("temperature", stated.temperature, 1.0, "the model as it is"),
        "kl_coefficient": take("klCoefficient", stated.kl_coefficient, *_leash(stated, 0.05)),
        "clip_range": take("clipRange", stated.clip_range, 0.2, "that of the paper"),
        "gamma": take("gamma", stated.gamma, 1.0, "the reward comes at the end of an answer"),
        "gae_lambda": take("gaeLambda", stated.gae_lambda, 0.95, "usual"),
        "epochs": take("epochs", stated.epochs, 4, "usual: sampling takes longer than learning"),
        "value_coefficient": take("valueCoefficient", stated.value_coefficient, 0.1, "usual where layers are shared"),
    }
    return stated.model_copy(update=chosen)


def _leash(stated: GrpoMethod | PpoMethod, usual: float) -> tuple[float, str]:
    if stated.reward_model is None:
        return 0.0, "what is checked by rule needs no leash"
    return usual, "a reward model is right only near the answers it learned from"


def _max_new_tokens(method: str, stated: int | None, positions: int | None, choices: Choices) -> int:
    most = USUAL_NEW_TOKENS if positions is None else max(1, min(USUAL_NEW_TOKENS, positions // 2))
    why = "usual" if most == USUAL_NEW_TOKENS else "half of the base's positions"
    return choices.take(f"method.{method}.maxNewTokens", stated, most, why)


def sampling_of(spec: FineTuneJobSpec) -> Sampling | None:
    """Of a spec that is filled in; None where nothing is sampled."""
    method = spec.method.rewarded() if spec.method else None
    if method is None:
        return None
    assert method.max_new_tokens is not None
    if isinstance(method, PpoMethod):
        return Sampling(1, method.max_new_tokens, prompts=32)
    assert method.num_generations is not None
    return Sampling(method.num_generations, method.max_new_tokens, prompts=8)


def check_room(max_length: int, sampling: Sampling) -> None:
    """Raises Failure where answers would leave no room for prompts."""
    if sampling.max_new_tokens >= max_length:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"training.maxLength is {max_length} tokens, and answers of up to {sampling.max_new_tokens} (maxNewTokens) "
            "leave no room for a prompt; raise the one or lower the other",
        )


def usual_batch(prompts: int, sampling: Sampling) -> int:
    """Answers per optimiser step."""
    return sampling.generations * min(sampling.prompts, prompts)


def steps_per_epoch(prompts: int, batch: int, sampling: Sampling) -> int:
    """Optimiser steps; prompts that do not fill the last one wait for another epoch. Raises Failure where none is filled."""
    if batch % sampling.generations:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"training.batchSize is {batch} answers, which is no multiple of numGenerations ({sampling.generations}); "
            f"set it to {sampling.generations * ceil(batch / sampling.generations)}",
        )
    per_step = batch // sampling.generations
    if per_step > prompts:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"training.batchSize is {batch} answers: a step takes {per_step} prompts, and there are {prompts} training rows; "
            f"set it to at most {prompts * sampling.generations}",
        )
    return prompts // per_step
