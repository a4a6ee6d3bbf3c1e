"""Decide whether the tuned model is good enough. Pure and reproducible; the figures come from :mod:`finetune_stage.scores`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from finetune_api.v1alpha1.evaluation import GateRule, Metric
from finetune_api.v1alpha1.finetunejob_status import GateResult
from finetune_stage.bootstrap import Interval, paired_bootstrap, paired_difference, paired_differences
from finetune_stage.scores import (
    LOWER_IS_BETTER,
    PERCENTILES,
    SHARES,
    Gain,
    RowScore,
    SuiteScores,
    correct,
    figures,
    measured_rows,
    statistic,
)
from finetune_stage.sums import Statistic

NO_ROWS = "no held-out rows to decide on: give dataset.test, dataset.validation or dataset.split"


class Exams(NamedTuple):
    """Outcomes on the same rows in the same order."""

    tuned: list[RowScore]
    """Empty where there are no held-out rows."""
    base: list[RowScore] | None = None
    majority: list[bool] | None = None
    """Whether the most frequent training answer would be right."""
    suites: Mapping[str, SuiteScores] = {}
    previous: list[RowScore] | None = None


def decide(rules: list[GateRule], exams: Exams, seed: int) -> list[GateResult]:
    """Each rule's verdict, with the figures it was decided on."""
    return [_verdict(rule, exams, seed) for rule in rules]


def _verdict(rule: GateRule, exams: Exams, seed: int) -> GateResult:
    if rule.suite is not None:
        suite = exams.suites.get(rule.suite, SuiteScores(tuned=[]))
        exams = Exams(suite.tuned, suite.base)
    if not exams.tuned:
        return GateResult(metric=rule.metric, passed=False, message=NO_ROWS)
    rows = measured_rows(exams.tuned, rule.metric)
    if not rows:
        return GateResult(
            metric=rule.metric,
            passed=False,
            message=f"{rule.metric} could be measured on none of the {len(exams.tuned)} held-out rows: none has what it compares",
        )
    of_suite = f" of suite {rule.suite}" if rule.suite else ""
    value = figures(exams.tuned, [rule.metric])[rule.metric]
    checks = [
        *_limits(rule, value),
        *_ratio(rule, value, exams.base),
        *_beats(rule, exams, seed),
        *_gain(rule, exams, seed),
        *_beside_previous(rule, exams, seed),
    ]
    return GateResult(
        metric=rule.metric,
        passed=all(held for held, _ in checks),
        message=f"{rule.metric} is {value:.4g} on {rows} rows{of_suite}: "
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


def _beats(rule: GateRule, exams: Exams, seed: int) -> Iterator[Check]:
    for name in rule.beats or ():
        is_majority = name == "MajorityClass"
        gain = _gain_on_majority(rule, exams, seed) if is_majority else _gain_on_base(rule.metric, exams, seed)
        if gain is None:
            yield False, f"beats {name}, which was not evaluated"
            continue
        yield gain.low > 0, f"beats {name} by {gain.value:+.4f}, {_between(gain)}"


def _gain_on_base(metric: Metric, exams: Exams, seed: int) -> Interval | None:
    return None if exams.base is None else improvement(metric, exams.tuned, exams.base, seed)


def _gain_on_majority(rule: GateRule, exams: Exams, seed: int) -> Interval | None:
    return None if exams.majority is None else _paired(correct(exams.tuned, rule.metric), exams.majority, seed)


def _paired(ours: Sequence[bool | None], theirs: Sequence[bool | None], seed: int) -> Interval:
    """On the rows that have both outcomes."""
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=True) if one is not None and other is not None]
    return paired_bootstrap([one for one, _ in pairs], [other for _, other in pairs], seed)


def _gain(rule: GateRule, exams: Exams, seed: int) -> Iterator[Check]:
    """Sure to be better than the base by so much: the lower bound decides."""
    wanted, drop = rule.min_delta_versus_base, rule.max_drop_versus_base
    if wanted is None and drop is None:
        return
    if exams.base is None:
        yield False, "better than the base, which was not evaluated (evaluation.compareWithBase)"
        return
    gain = improvement(rule.metric, exams.tuned, exams.base, seed)
    if wanted is not None:
        yield gain.low >= wanted, f"better than the base by at least {wanted:g}: {gain.value:+.4g}, {_between(gain)}"
    if drop is not None:
        yield gain.low >= -drop, f"worse than the base by at most {drop:g}: {gain.value:+.4g}, {_between(gain)}"


def _beside_previous(rule: GateRule, exams: Exams, seed: int) -> Iterator[Check]:
    drop = rule.max_drop_versus_previous
    if drop is None:
        return
    if exams.previous is None:
        yield False, "beside the previous adapter, which was not evaluated"
        return
    gain = improvement(rule.metric, exams.tuned, exams.previous, seed)
    yield gain.low >= -drop, f"worse than the previous by at most {drop:g}: {gain.value:+.4g}, {_between(gain)}"


def improvement(metric: Metric, tuned: list[RowScore], other: list[RowScore], seed: int) -> Interval:
    """How much better the tuned model is; of a loss, by how much it is lower."""
    if metric in SHARES:
        return _paired(correct(tuned, metric), correct(other, metric), seed)
    return paired_difference(*_operands(metric, tuned, other), seed)


def gains(
    metrics: Iterable[Metric], tuned: list[RowScore], other: list[RowScore] | None, seed: int
) -> dict[str, Gain] | None:
    """Of every metric with outcomes that are summed over rows; None where there is no other model."""
    if other is None:
        return None
    compared = [name for name in metrics if name not in PERCENTILES and measured_rows(tuned, name)]
    summed = [name for name in compared if name not in SHARES]
    drawn = paired_differences([_operands(name, tuned, other) for name in summed], seed) if summed else []
    found = dict(zip(summed, drawn, strict=True))
    found |= {name: improvement(name, tuned, other, seed) for name in compared if name in SHARES}
    return {name: Gain(**found[name]._asdict()) for name in compared}


def _operands(metric: Metric, tuned: list[RowScore], other: list[RowScore]) -> tuple[Statistic, Statistic]:
    """Minuend and subtrahend of a gain."""
    ours, theirs = statistic(tuned, metric), statistic(other, metric)
    return (theirs, ours) if metric in LOWER_IS_BETTER else (ours, theirs)


def _between(interval: Interval) -> str:
    return f"95 % interval {interval.low:+.4f} to {interval.high:+.4f}"
