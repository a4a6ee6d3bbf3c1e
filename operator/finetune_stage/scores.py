"""What a model got right, row by row, and the figures made of it. Pure; made by :mod:`finetune_trainer.evaluate` or a provider's answers.

evaluation.json is an :class:`EvaluationFile`: with its outcomes every figure and every verdict of
:mod:`finetune_stage.gate` can be computed again.
"""

import math
from collections import Counter
from collections.abc import Iterable

from finetune_api.model import ApiModel
from finetune_api.v1alpha1.finetunejob import EvaluationStatus
from finetune_api.v1alpha1.training import Metric

# Perplexity is e to the loss; beyond this loss it would not fit into a float.
HIGHEST_LOSS = 700.0


class RowScore(ApiModel):
    """One held-out row under one model."""

    id: str
    """Start of the row's sha256; texts stay in the dataset."""
    nll: float
    """Negative log-likelihood of the answer (cpt: of the text), in nats."""
    tokens: int
    """Tokens it is summed over."""
    exact: bool | None = None
    """Whether the generated answer is the reference."""
    label_correct: bool | None = None
    """Whether the right label is the most probable one."""
    margin: float | None = None
    """A preference: the score of the chosen answer less that of the rejected one. kto: on good answers to a prompt that has a
    bad one too."""
    reward: float | None = None
    """What the greedy answer is worth."""


class EvaluationFile(ApiModel):
    """evaluation.json."""

    summary: EvaluationStatus
    """The figures and the gate's verdicts."""
    seed: int
    """Seed of the bootstrap."""
    base: list[RowScore] | None = None
    """The base on the held-out rows; none with compareWithBase: false."""
    tuned: list[RowScore]
    """The tuned model on the same rows, in the same order."""
    majority: list[bool] | None = None
    """Whether the most frequent training answer is right, on the same rows; none where rows have no answers."""

    @property
    def gate_passed(self) -> bool:
        """Whether every rule held; without rules, yes."""
        return all(result.passed for result in self.summary.gate or ())


def figures(scores: list[RowScore], metrics: Iterable[Metric]) -> dict[str, float]:
    """The metrics over all rows; the loss counts every token alike."""
    return {metric: _figure(metric, scores) for metric in metrics}


def _figure(metric: Metric, scores: list[RowScore]) -> float:
    if metric == "Loss":
        return _loss(scores)
    if metric == "Perplexity":
        return math.exp(min(_loss(scores), HIGHEST_LOSS))
    if metric == "RewardMargin":
        margins = [score.margin for score in scores if score.margin is not None]
        return sum(margins) / max(1, len(margins))
    if metric == "Reward":
        return sum(score.reward or 0.0 for score in scores) / max(1, len(scores))
    return share(correct(scores, metric))


def _loss(scores: list[RowScore]) -> float:
    return sum(score.nll for score in scores) / max(1, sum(score.tokens for score in scores))


def correct(scores: list[RowScore], metric: Metric) -> list[bool]:
    """Row by row, for a metric that is a share of right rows."""
    if metric == "PreferenceAccuracy":
        return [score.margin > 0 for score in scores if score.margin is not None]
    found = [score.exact if metric == "ExactMatch" else score.label_correct for score in scores]
    return [bool(value) for value in found]


def share(values: list[bool]) -> float:
    """The share of True."""
    return sum(values) / len(values) if values else 0.0


def majority_baseline(train_answers: Iterable[str], answers: list[str]) -> list[bool]:
    """Always the most frequent training answer; of equally frequent ones the first in the alphabet."""
    counts = Counter(train_answers)
    most_frequent = min(counts, key=lambda answer: (-counts[answer], answer))
    return [answer == most_frequent for answer in answers]
