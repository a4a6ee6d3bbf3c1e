"""What an answer is worth: the rewards of methods that learn from answers of their own, and of the metric Reward.

A judge scores answers by the weighted sum of the job's rewards. One function per kind of reward, in one table; all are
deterministic, and none needs torch, so that the prepare stage can check them.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jsonschema

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.reinforcement import LengthReward, RewardSpec
from finetune_api.v1alpha1.training import MethodSpec


class Answer(NamedTuple):
    """An answer of a model, and what it is judged by."""

    text: str
    """Without its end token."""
    reference: str
    """The row's own answer."""
    prompt_ids: list[int]
    ids: list[int]
    """Tokens of the answer, its end token included where there is one."""


Judge = Callable[[list[Answer]], list[float]]
"""The rewards of answers, in their order."""
Reward = Callable[[Answer], float]


def judge(method: MethodSpec, scorer: Judge | None = None) -> Judge | None:
    """The judge a method asks for; None for methods without rewards. ``scorer``: its reward model. Raises Failure where a reward
    cannot be computed."""
    settings = method.rewarded()
    if settings is None:
        return None
    weighted = [(1.0 if spec.weight is None else spec.weight, reward(spec)) for spec in settings.rewards or ()]
    stated = settings.reward_model.weight if settings.reward_model else None
    share = 1.0 if stated is None else stated

    def judged(answers: list[Answer]) -> list[float]:
        rules = [sum(weight * each(answer) for weight, each in weighted) for answer in answers]
        scores = scorer(answers) if scorer else [0.0] * len(answers)
        return [rule + share * score for rule, score in zip(rules, scores, strict=True)]

    return judged


def reward(spec: RewardSpec) -> Reward:
    """The function of one reward."""
    return next(make(getattr(spec, kind)) for kind, make in KINDS.items() if getattr(spec, kind) is not None)


def _regex(spec: Any) -> Reward:
    try:
        pattern = re.compile(spec.pattern)
    except re.error as error:
        raise Failure(
            Reason.CONFIG_INVALID, f"the reward regex {spec.pattern!r} is no regular expression of Python: {error}"
        ) from None
    return lambda answer: float(pattern.search(answer.text) is not None)


def _exact_match(spec: Any) -> Reward:
    return lambda answer: float(answer.text.strip() == answer.reference.strip())


def _json_schema(spec: Any) -> Reward:
    try:
        document = json.loads(spec.document)
        jsonschema.Draft202012Validator.check_schema(document)
    except (ValueError, jsonschema.SchemaError) as error:
        first = str(error).splitlines()[0]
        raise Failure(
            Reason.CONFIG_INVALID, f"the document of a reward jsonSchema is no JSON schema (2020-12): {first}"
        ) from None
    validator = jsonschema.Draft202012Validator(document)

    def accepts(answer: Answer) -> float:
        try:
            return float(validator.is_valid(json.loads(answer.text)))
        except (ValueError, RecursionError):  # no JSON, or nested beyond reason
            return 0.0

    return accepts


def _length(spec: LengthReward) -> Reward:
    target, least, most = spec.target_tokens, spec.min_tokens or 0, spec.max_tokens or float("inf")
    if target is not None:
        return lambda answer: max(0.0, 1 - abs(len(answer.ids) - target) / target)
    return lambda answer: float(least <= len(answer.ids) <= most)


KINDS: dict[str, Callable[[Any], Reward]] = {
    "regex": _regex,
    "exact_match": _exact_match,
    "json_schema": _json_schema,
    "length": _length,
}
"""Per member of RewardSpec: its settings -> its function."""


def answer_text(tokenizer: Any, ids: list[int], stop_tokens: Iterable[int]) -> str:
    """The text of an answer, without the stop token it may end with."""
    kept = ids[:-1] if ids and ids[-1] in set(stop_tokens) else ids
    return str(tokenizer.decode(kept, skip_special_tokens=True))
