"""Decide between which learning rates the search looks. Pure; called by :mod:`finetune_trainer.plan`.

steps      100
lowest     a hundredth of the rate that is usual
highest    a thousand times the rate that is usual, at most 1
"""

from finetune_api.artifacts import ResolvedSearch
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.training import LearningRateSearch
from finetune_trainer.choices import Choices

STEPS = 100


def resolved_search(stated: LearningRateSearch | None, usual: float, choices: Choices) -> ResolvedSearch | None:
    """With nothing left out; None where none is asked for. Raises Failure where no rate lies in between."""
    if stated is None:
        return None
    field = "training.learningRateSearch"
    lowest = choices.take(f"{field}.lowest", stated.lowest, _rounded(usual / 100), "a hundredth of the usual one")
    highest = choices.take(
        f"{field}.highest",
        stated.highest,
        min(1.0, _rounded(usual * 1000)),
        "a thousand times the usual one, at most 1",
    )
    if lowest >= highest:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{field} rises from lowest to highest, which are {lowest:g} and {highest:g}; state both, the lower one first",
        )
    return ResolvedSearch(
        steps=choices.take(f"{field}.steps", stated.steps, STEPS, "twenty for a factor of ten"),
        lowest=lowest,
        highest=highest,
    )


def _rounded(rate: float) -> float:
    """Without the dust of a division."""
    return float(f"{rate:.6g}")
