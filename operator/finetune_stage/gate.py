"""Decide whether the tuned model is good enough. Pure and reproducible; the figures come from :mod:`finetune_stage.scores`."""

from collections.abc import Iterator

import numpy as np

from finetune_api.v1alpha1.finetunejob import GateResult
from finetune_api.v1alpha1.training import GateRule
from finetune_stage.scores import RowScore, correct, figures

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)
NO_ROWS = "no held-out rows to decide on: give dataset.test, dataset.validation or dataset.split"


def decide(
    rules: list[GateRule], base: list[RowScore] | None, tuned: list[RowScore], majority: list[bool] | None, seed: int
) -> list[GateResult]:
    """Each rule's verdict, with the figures it was decided on."""
    return [_verdict(rule, base, tuned, majority, seed) for rule in rules]


def _verdict(
    rule: GateRule, base: list[RowScore] | None, tuned: list[RowScore], majority: list[bool] | None, seed: int
) -> GateResult:
    if not tuned:
        return GateResult(metric=rule.metric, passed=False, message=NO_ROWS)
    value = figures(tuned, [rule.metric])[rule.metric]
    checks = [*_limits(rule, value), *_ratio(rule, value, base), *_beats(rule, base, tuned, majority, seed)]
    return GateResult(
        metric=rule.metric,
        passed=all(held for held, _ in checks),
        message=f"{rule.metric} is {value:.4g} on {len(tuned)} rows: "
        + "; ".join(f"{text}: {'yes' if held else 'no'}" for held, text in checks),
    )


Check = tuple[bool, str]


def _limits(rule: GateRule, value: float) -> Iterator[Check]:
    if rule.min is not None:
        yield value >= rule.min, f"at least {rule.min:g}"
    if rule.max is not None:
        yield value <= rule.max, f"at most {rule.max:g}"


def _ratio(rule: GateRule, value: float, base: list[RowScore] | None) -> Iterator[Check]:
    if rule.max_ratio_to_base is None:
        return
    if base is None:
        yield False, "ratio to the base, which was not evaluated (evaluation.compareWithBase)"
        return
    reference = figures(base, [rule.metric])[rule.metric]
    # Compared as a product: a base at zero has no ratio.
    yield (
        value <= rule.max_ratio_to_base * reference,
        f"at most {rule.max_ratio_to_base:g} times the base's {reference:.4g}",
    )


def _beats(
    rule: GateRule, base: list[RowScore] | None, tuned: list[RowScore], majority: list[bool] | None, seed: int
) -> Iterator[Check]:
    for name in rule.beats or ():
        other = _baseline(name, rule, base, majority)
        if other is None:
            yield False, f"beats {name}, which was not evaluated"
            continue
        low, mean, high = paired_bootstrap(correct(tuned, rule.metric), other, seed)
        yield low > 0, f"beats {name} by {mean:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"


def _baseline(name: str, rule: GateRule, base: list[RowScore] | None, majority: list[bool] | None) -> list[bool] | None:
    if name == "MajorityClass":
        return majority
    return correct(base, rule.metric) if base is not None else None


def paired_bootstrap(tuned: list[bool], other: list[bool], seed: int) -> tuple[float, float, float]:
    """Lower bound, mean and upper bound of the 95 % interval of (tuned - other) over the same rows.

    A row's difference is -1, 0 or 1, so that drawing rows with replacement is drawing those three counts: the same
    distribution, at a cost that does not grow with the rows.
    """
    difference = np.asarray(tuned, dtype=np.int64) - np.asarray(other, dtype=np.int64)
    rows = len(difference)
    shares = [np.count_nonzero(difference == outcome) / rows for outcome in (1, -1)]
    drawn = np.random.default_rng(seed).multinomial(rows, [*shares, 1 - sum(shares)], size=RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / rows, INTERVAL)
    return float(low), float(difference.mean()), float(high)
