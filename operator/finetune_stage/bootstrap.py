"""How sure a difference between two models is: rows are drawn again with replacement, for both models the same. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune_stage.sums import Numbers, Statistic

RESAMPLES = 10_000
FEWEST_RESAMPLES = 1_000
DRAWN_IN_ALL = 200_000_000
"""Rows that are drawn, some two seconds' worth: beyond 20,000 rows a bound needs fewer resamples to be as good."""
BOUNDS = (2.5, 97.5)
DRAWN_AT_A_TIME = 2_000_000


class Interval(NamedTuple):
    """A difference, and between which bounds 95 % of the drawn ones lie."""

    low: float
    value: float
    high: float


def paired_difference(tuned: Statistic, other: Statistic, seed: int) -> Interval:
    """Of (tuned - other), both over the same rows in the same order; the value is that of the rows themselves."""
    return paired_differences([(tuned, other)], seed)[0]


def paired_differences(pairs: Sequence[tuple[Statistic, Statistic]], seed: int) -> list[Interval]:
    """Of several metrics over the same rows, which are drawn once for all of them: each is what it is by itself."""
    rows = pairs[0][0].rows
    generator = np.random.default_rng(seed)
    drawn: list[list[Numbers]] = [[] for _ in pairs]
    for size in _sizes(resamples(rows), max(1, DRAWN_AT_A_TIME // rows)):
        places = generator.integers(0, rows, size=(size, rows)) + np.arange(size)[:, None] * rows
        times = np.bincount(places.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)
        for found, (tuned, other) in zip(drawn, pairs, strict=True):
            found.append(tuned.of_sums(tuned.drawn(times)) - other.of_sums(other.drawn(times)))
    return [_interval(found, *pair) for found, pair in zip(drawn, pairs, strict=True)]


def _interval(drawn: list[Numbers], tuned: Statistic, other: Statistic) -> Interval:
    low, high = np.percentile(np.concatenate(drawn), BOUNDS)
    value = tuned.of_sums(tuned.total) - other.of_sums(other.total)
    return Interval(float(low), float(value), float(high))


def resamples(rows: int) -> int:
    """How often so many rows are drawn again."""
    return min(RESAMPLES, max(FEWEST_RESAMPLES, DRAWN_IN_ALL // rows))


def paired_bootstrap(tuned: list[bool], other: list[bool], seed: int) -> Interval:
    """The same for right or wrong rows.

    A row's difference is -1, 0 or 1, so that drawing rows with replacement is drawing those three counts: the same
    distribution, at a cost that does not grow with the rows.
    """
    difference = np.asarray(tuned, dtype=np.int64) - np.asarray(other, dtype=np.int64)
    rows = len(difference)
    shares = [np.count_nonzero(difference == outcome) / rows for outcome in (1, -1)]
    drawn = np.random.default_rng(seed).multinomial(rows, [*shares, 1 - sum(shares)], size=RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / rows, BOUNDS)
    return Interval(float(low), float(difference.mean()), float(high))


def _sizes(count: int, most: int) -> list[int]:
    """The count in parts of at most so many."""
    return [min(most, count - start) for start in range(0, count, most)]
