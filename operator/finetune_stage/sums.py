"""A metric as a function of sums over rows, so that rows can be drawn again without looking at them again. Pure.

Made by :mod:`finetune_stage.scores`, drawn by :mod:`finetune_stage.bootstrap`.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
OfSums = Callable[[Numbers], Any]
"""Sums of shape (..., terms) -> figures of shape (...)."""


class Statistic(NamedTuple):
    """What rows add up to, and what is made of it."""

    rows: int
    total: Numbers
    """Sums over all rows, one for each term."""
    drawn: Callable[[Numbers], Numbers]
    """How often each row is drawn, of shape (draws, rows) -> the sums over those, of shape (draws, terms)."""
    of_sums: OfSums


def of_terms(terms: Numbers, of_sums: OfSums) -> Statistic:
    """Every row adds something to every term; ``terms`` has shape (rows, terms)."""
    return Statistic(len(terms), terms.sum(axis=0), lambda times: times @ terms, of_sums)


def of_marks(marks: Iterable[tuple[int, int]], rows: int, terms: int, of_sums: OfSums) -> Statistic:
    """Rows add one to few of many terms: each mark is a term and a row, no two are the same."""
    found, where = np.array(sorted(marks), np.int64).reshape(-1, 2).T
    columns, starts = np.unique(found, return_index=True)

    def drawn(times: Numbers) -> Numbers:
        sums = np.zeros((len(times), terms))
        if len(columns):
            sums[:, columns] = np.add.reduceat(times[:, where], starts, axis=1)
        return sums

    return Statistic(rows, drawn(np.ones((1, rows)))[0], drawn, of_sums)
