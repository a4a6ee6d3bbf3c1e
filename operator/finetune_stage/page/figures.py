"""The figures of the tuned model beside the base's and the previous adapter's, with how sure the change is."""

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from finetune_stage.page.frame import table
from finetune_stage.scores import LOWER_IS_BETTER, Gain


class Figures(NamedTuple):
    """Of the tuned model and of another on the same rows, metric by metric."""

    tuned: Mapping[str, float]
    other: Mapping[str, float] = {}
    """Empty where it was not evaluated."""
    gains: Mapping[str, Gain] = {}
    """Of those that have an interval."""


def compared_figures(base: Figures, previous: Figures | None = None) -> str:
    """A row each; columns of what was not evaluated are left out."""
    earlier = previous if previous and previous.other else None
    head = ["Metric", "Base", *(["Previous"] if earlier else []), "Tuned", "Change"]
    head += ["95 % interval of the change"] if base.gains else []
    head += ["95 % interval of the change from the previous"] if earlier and earlier.gains else []
    rows = [
        [
            escape(name),
            _figure(name, base),
            *([_figure(name, earlier)] if earlier else []),
            f"<b>{value:.4g}</b>",
            _change(name, base.other, value),
            *([_interval(name, base)] if base.gains else []),
            *([_interval(name, earlier)] if earlier and earlier.gains else []),
        ]
        for name, value in base.tuned.items()
    ]
    return table(head, rows, numbers=set(range(1, len(head))))


def _figure(name: str, seen: Figures) -> str:
    return f"{seen.other[name]:.4g}" if name in seen.other else "-"


def _interval(name: str, seen: Figures) -> str:
    return seen.gains[name].of_change(name) if name in seen.gains else "-"


def _change(name: str, base: Mapping[str, float], value: float) -> str:
    if name not in base or value == base[name]:
        return "-" if name not in base else "0"
    is_better = (value < base[name]) == (name in LOWER_IS_BETTER)
    return f'<span class="{"good" if is_better else "bad"}">{value - base[name]:+.4g}</span>'
