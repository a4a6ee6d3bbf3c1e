"""What a model got right, row by row, and the figures made of it. Pure; made by :mod:`finetune_trainer.evaluate` or a provider's answers.

evaluation.json is an :class:`EvaluationFile`: with its outcomes every figure and every verdict of
:mod:`finetune_stage.gate` can be computed again.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from finetune_api.model import ApiModel
from finetune_api.v1alpha1.evaluation import Metric
from finetune_api.v1alpha1.finetunejob_status import EvaluationStatus
from finetune_stage.overlap import BLEU_ORDERS, CHRF_ORDERS, bleu, chrf
from finetune_stage.sums import Numbers, Statistic, of_marks, of_terms

# Perplexity is e to the loss; beyond this loss it would not fit into a float.
HIGHEST_LOSS = 700.0
PERCENTILES: dict[Metric, float] = {"LatencyP50Seconds": 50, "LatencyP95Seconds": 95}
"""Of the seconds an answer takes; no sums over rows, so that no interval is drawn of them."""
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"Loss", "Perplexity", *PERCENTILES})
SHARES: frozenset[Metric] = frozenset({"ExactMatch", "Accuracy", "PreferenceAccuracy"})
"""A row is right or wrong."""

Confusion = dict[str, dict[str, int]]
"""Right label -> most probable label -> rows."""


class RowScore(ApiModel):
    """One held-out row under one model."""

    id: str
    """Start of the row's sha256; its texts stay in the dataset."""
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
    label: str | None = None
    """The reference, one of the labels."""
    predicted: str | None = None
    """The most probable label."""
    classes: list[str] | None = None
    """Of a text with several classes: those it has."""
    said: list[str] | None = None
    """Those it is said to have."""
    values: dict[str, float] | None = None
    """Of further metrics, by their names: the figure is the mean over the rows."""
    terms: dict[str, list[float]] | None = None
    """Of Bleu and Chrf what the row adds to the sums they are computed from."""
    answer: str | None = None
    """What the model wrote, of the first rows (evaluation.samples), unless something in it looks like a secret or personal data."""
    seconds: float | None = None
    """Until the answer was written, alone; of the first rows, where a latency is asked for."""


class LabelFigures(ApiModel):
    """How a label fares; 0 where there is nothing to divide by."""

    rows: int
    """Rows that have it."""
    precision: float
    """Of the rows that are said to have it, the share that has it."""
    recall: float
    """Of the rows that have it, the share that is said to."""
    f1: float
    """The harmonic mean of both."""


class Gain(ApiModel):
    """How much better the tuned model is than another on the same rows (of a loss: by how much it is lower), and between which bounds
    that is by 95 % (paired bootstrap)."""

    low: float
    value: float
    high: float

    def of_change(self, metric: str) -> str:
        """The bounds for people, of (tuned - other): where a metric is better the lower it is, a gain is a change downwards."""
        low, high = (-self.high, -self.low) if metric in LOWER_IS_BETTER else (self.low, self.high)
        return f"{low + 0.0:+.4g} to {high + 0.0:+.4g}"  # minus zero is zero


class SuiteScores(ApiModel):
    """The outcomes on the rows of a suite."""

    base: list[RowScore] | None = None
    tuned: list[RowScore]
    cut_prompts: int | None = None
    gains: dict[str, Gain] | None = None
    """Both as an EvaluationFile's."""


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
    previous: list[RowScore] | None = None
    """The previous adapter on the same rows."""
    majority: list[bool] | None = None
    """Whether the most frequent training answer is right, on the same rows; none where rows have no answers."""
    suites: dict[str, SuiteScores] | None = None
    """By name, the outcomes on rows of other tasks."""
    confusion: Confusion | None = None
    """Rows of the tuned model: right label -> most probable label -> how many; none without labels."""
    labels: dict[str, LabelFigures] | None = None
    """Label by label how the tuned model did; none without labels."""
    gains: dict[str, Gain] | None = None
    """On the base, metric by metric; none where it was not evaluated."""
    gains_on_previous: dict[str, Gain] | None = None
    """On the previous adapter."""
    cut_prompts: int | None = None
    """Prompts whose beginnings were not read, as with an answer they are longer than the base can read; none where nothing was
    answered."""

    @property
    def gate_passed(self) -> bool:
        """Whether every rule held; without rules, yes."""
        return all(result.passed for result in self.summary.gate or ())


def figures(scores: list[RowScore], metrics: Iterable[Metric]) -> dict[str, float]:
    """The metrics over all rows; the loss counts every token alike."""
    return {metric: _figure(scores, metric) for metric in metrics}


def _figure(scores: list[RowScore], metric: Metric) -> float:
    if metric in PERCENTILES:
        seconds = [score.seconds for score in scores if score.seconds is not None]
        return float(np.percentile(seconds, PERCENTILES[metric])) if seconds else 0.0
    found = statistic(scores, metric)
    return float(found.of_sums(found.total))


def statistic(scores: list[RowScore], metric: Metric) -> Statistic:
    """The metric over these rows. A further metric that is a mean needs only :attr:`RowScore.values`."""
    if metric == "Loss":
        return of_terms(_terms((score.nll, score.tokens) for score in scores), _ratio)
    if metric == "Perplexity":
        return of_terms(_terms((score.nll, score.tokens) for score in scores), _perplexity)
    if metric == "MacroF1":
        return _label_counts(scores)
    if metric == "Bleu":
        return of_terms(_named_terms(scores, metric, 2 + 2 * BLEU_ORDERS), bleu)
    if metric == "Chrf":
        return of_terms(_named_terms(scores, metric, 3 * CHRF_ORDERS), chrf)
    values = row_values(scores, metric)
    return of_terms(_terms((0, 0) if value is None else (value, 1) for value in values), _ratio)


def row_values(scores: list[RowScore], metric: Metric) -> list[float | None]:
    """Row by row, for a metric that is a mean over the rows that have a value."""
    if metric in SHARES:
        return [None if right is None else float(right) for right in correct(scores, metric)]
    if metric == "RewardMargin":
        return [score.margin for score in scores]
    if metric == "Reward":
        return [score.reward for score in scores]
    return [(score.values or {}).get(metric) for score in scores]


def measured_rows(scores: list[RowScore], metric: Metric) -> int:
    """How many rows have an outcome; not every row need be answered."""
    if metric in ("Loss", "Perplexity", "MacroF1"):
        return len(scores)
    if metric in PERCENTILES:
        return sum(score.seconds is not None for score in scores)
    if metric in ("Bleu", "Chrf"):
        return sum(score.terms is not None for score in scores)
    return sum(value is not None for value in row_values(scores, metric))


def _terms(rows: Iterable[tuple[float, float]]) -> Numbers:
    return np.array(list(rows), dtype=np.float64).reshape(-1, 2)


def _named_terms(scores: list[RowScore], metric: Metric, width: int) -> Numbers:
    nothing = [0.0] * width
    return np.array([(score.terms or {}).get(metric, nothing) for score in scores], dtype=np.float64).reshape(-1, width)


def _ratio(sums: Numbers) -> Any:
    return sums[..., 0] / np.maximum(1, sums[..., 1])


def _perplexity(sums: Numbers) -> Any:
    return np.exp(np.minimum(_ratio(sums), HIGHEST_LOSS))


def _label_counts(scores: list[RowScore]) -> Statistic:
    """MacroF1: for each label how often it is right and predicted, predicted, right."""
    places = {label: 3 * place for place, label in enumerate(_labels(scores))}
    marks = (
        (places[label] + kind, row)
        for row, score in enumerate(scores)
        for right, said in [(set(_right(score)), set(_said(score)) & places.keys())]
        for kind, labels in enumerate((right & said, said, right))
        for label in labels
    )
    return of_marks(marks, len(scores), 3 * len(places), _macro_f1)


def _labels(scores: list[RowScore]) -> list[str]:
    """Those that rows have."""
    return sorted({label for score in scores for label in _right(score)})


def _right(score: RowScore) -> list[str]:
    return [score.label or ""] if score.classes is None else score.classes


def _said(score: RowScore) -> list[str]:
    return [score.predicted or ""] if score.said is None else score.said


def label_figures(scores: list[RowScore]) -> dict[str, LabelFigures] | None:
    """Label by label, over the labels that rows have; None where rows have no labels."""
    if all(score.label is None for score in scores):
        return None
    found: dict[str, LabelFigures] = {}
    sums = _label_counts(scores).total.reshape(-1, 3)
    for label, (both, said, right) in zip(_labels(scores), sums.tolist(), strict=True):
        found[label] = LabelFigures(
            rows=int(right),
            precision=both / max(1, said),
            recall=both / max(1, right),
            f1=2 * both / max(1, said + right),
        )
    return found


def _macro_f1(sums: Numbers) -> Any:
    """Mean F1 over the labels that occur; a label that no drawn row has is left out of that draw."""
    both, said, right = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    f1 = 2 * both / np.maximum(1, said + right)
    return (f1 * (right > 0)).sum(-1) / np.maximum(1, (right > 0).sum(-1))


def confusion(scores: list[RowScore]) -> Confusion | None:
    """Right label -> most probable label -> rows; None where rows have no labels."""
    pairs = Counter((score.label, score.predicted) for score in scores if score.label is not None)
    table: Confusion = {}
    for (label, predicted), rows in sorted(pairs.items()):
        table.setdefault(str(label), {})[str(predicted)] = rows
    return table or None


def correct(scores: list[RowScore], metric: Metric) -> list[bool | None]:
    """Row by row, for a metric that is a share of right rows; None where a row has no outcome."""
    if metric == "PreferenceAccuracy":
        return [None if score.margin is None else score.margin > 0 for score in scores]
    return [score.exact if metric == "ExactMatch" else score.label_correct for score in scores]


def share(values: list[bool]) -> float:
    """The share of True."""
    return sum(values) / len(values) if values else 0.0


def majority_baseline(train_answers: Iterable[str], answers: list[str]) -> list[bool]:
    """Always the most frequent training answer; of equally frequent ones the first in the alphabet."""
    counts = Counter(train_answers)
    most_frequent = min(counts, key=lambda answer: (-counts[answer], answer))
    return [answer == most_frequent for answer in answers]
