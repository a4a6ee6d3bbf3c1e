"""BLEU and chrF out of sums over rows, as sacrebleu computes them over a corpus, for many draws of the rows at once. Pure.

What a row adds is counted by :mod:`finetune_trainer.text_metrics`, by sacrebleu itself.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLEU_ORDERS = 4
CHRF_ORDERS = 6
CHRF_BETA = 2
"""How many times as much recall counts as precision."""

Numbers = NDArray[np.float64]


def bleu(sums: Numbers) -> Any:
    """0 to 100, of (tokens of the answers, of the references, n-grams in common for each order, n-grams of the answers).

    An order without a hit counts as half of the one before (sacrebleu's smoothing "exp"); where no answer has four tokens, 0.
    """
    written, reference = sums[..., 0], sums[..., 1]
    hits, grams = sums[..., 2 : 2 + BLEU_ORDERS], sums[..., 2 + BLEU_ORDERS :]
    smoothed = np.where(hits > 0, hits, 0.5 ** np.cumsum(hits == 0, axis=-1))
    precision = np.exp(np.log(smoothed / np.maximum(1, grams)).mean(-1))
    brevity = np.exp(np.minimum(0, 1 - reference / np.maximum(1, written)))
    return np.where((grams > 0).all(-1) & (hits > 0).any(-1), 100 * brevity * precision, 0.0)


def chrf(sums: Numbers) -> Any:
    """0 to 100, of (character n-grams of the answers, of the references, in common) for each order."""
    written, reference, hits = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    counted = (written > 0) & (reference > 0)
    orders = np.maximum(1, counted.sum(-1))
    precision = (hits / np.maximum(1, written) * counted).sum(-1) / orders
    recall = (hits / np.maximum(1, reference) * counted).sum(-1) / orders
    weight = CHRF_BETA**2
    both = weight * precision + recall
    return 100 * (1 + weight) * precision * recall / np.where(both > 0, both, 1)
