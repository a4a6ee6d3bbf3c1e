"""The gate passes what is truly better, and nothing else."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from finetune_api.v1alpha1.evaluation import GateRule, Metric
from finetune_stage.bootstrap import paired_bootstrap, paired_difference, resamples
from finetune_stage.gate import NO_ROWS, Exams, decide, gains, improvement
from finetune_stage.scores import (
    Gain,
    RowScore,
    SuiteScores,
    confusion,
    correct,
    figures,
    label_figures,
    majority_baseline,
    share,
    statistic,
)

LABELS = ["red", "green", "blue"]
REFERENCES = [LABELS[i % 3] for i in range(90)]


def answers(given: list[str], nll: float = 1.0) -> list[RowScore]:
    """Scores of a model that gives these answers."""
    right = [answer == reference for answer, reference in zip(given, REFERENCES, strict=True)]
    return [
        RowScore(id=str(i), nll=nll, tokens=2, exact=ok, label_correct=ok, label=label, predicted=said)
        for i, (ok, label, said) in enumerate(zip(right, REFERENCES, given, strict=True))
    ]


PERFECT = answers(REFERENCES, nll=0.2)
ALWAYS_RED = answers(["red"] * 90)
BASE = answers([LABELS[(i // 3) % 3] for i in range(90)])  # right by chance, on other rows than ALWAYS_RED
MAJORITY = majority_baseline([*REFERENCES, "red"], REFERENCES)
BEATS_BOTH = GateRule(metric="Accuracy", beats=["Base", "MajorityClass"])


@pytest.mark.parametrize(
    ("rule", "tuned", "passed"),
    [
        pytest.param(BEATS_BOTH, PERFECT, True, id="a model that learned the task beats both"),
        pytest.param(BEATS_BOTH, BASE, False, id="an adapter that learned nothing does not beat its base"),
        pytest.param(BEATS_BOTH, ALWAYS_RED, False, id="one label for everything does not beat the majority class"),
        pytest.param(GateRule(metric="Accuracy", min=1.0), PERFECT, True, id="at the minimum"),
        pytest.param(GateRule(metric="Accuracy", min=0.34), ALWAYS_RED, False, id="below the minimum"),
        pytest.param(GateRule(metric="Loss", max=0.1), PERFECT, True, id="at the maximum"),
        pytest.param(GateRule(metric="Loss", max=0.09), PERFECT, False, id="above the maximum"),
        pytest.param(GateRule(metric="Loss", max_ratio_to_base=0.2), PERFECT, True, id="at the ratio"),
        pytest.param(GateRule(metric="Loss", max_ratio_to_base=0.99), ALWAYS_RED, False, id="above the ratio"),
        pytest.param(GateRule(metric="Accuracy", min=0.3, max=0.3), ALWAYS_RED, False, id="every limit must hold"),
        pytest.param(
            GateRule(metric="Loss", min_delta_versus_base=0.3), PERFECT, True, id="a loss that is lower by 0.4"
        ),
        pytest.param(GateRule(metric="Loss", min_delta_versus_base=0.5), PERFECT, False, id="lower, but not by 0.5"),
        pytest.param(GateRule(metric="MacroF1", min_delta_versus_base=0.5), PERFECT, True, id="macro F1 rises by half"),
        pytest.param(
            GateRule(metric="MacroF1", min_delta_versus_base=0), ALWAYS_RED, False, id="one label has a low F1"
        ),
        pytest.param(GateRule(metric="ExactMatch", beats=["Base"]), PERFECT, True, id="exact match has a base too"),
    ],
)
def test_verdict(rule: GateRule, tuned: list[RowScore], passed: bool) -> None:
    [result] = decide([rule], Exams(tuned, BASE, MAJORITY), seed=42)
    assert result.passed is passed, result.message


def test_a_better_share_is_not_enough_where_it_may_be_luck() -> None:
    wrong = [place for place, row in enumerate(BASE) if not row.label_correct][:2]
    lucky = [row.model_copy(update={"label_correct": True}) if i in wrong else row for i, row in enumerate(BASE)]
    assert figures(lucky, ["Accuracy"])["Accuracy"] > figures(BASE, ["Accuracy"])["Accuracy"]
    [result] = decide([GateRule(metric="Accuracy", beats=["Base"])], Exams(lucky, BASE, MAJORITY), seed=42)
    assert not result.passed, result.message


def test_verdicts_name_their_figures() -> None:
    rule = GateRule(metric="Accuracy", min=0.5, beats=["MajorityClass"])
    [result] = decide([rule], Exams(ALWAYS_RED, None, MAJORITY), seed=42)
    assert result.message == (
        "Accuracy is 0.3333 on 90 rows: at least 0.5: no; beats MajorityClass by +0.0000, "
        "95 % interval +0.0000 to +0.0000: no"
    )


def test_without_rows_or_base_no_rule_holds() -> None:
    ratio = GateRule(metric="Loss", max_ratio_to_base=1.0)
    assert [r.message for r in decide([BEATS_BOTH, ratio], Exams([]), seed=1)] == [NO_ROWS, NO_ROWS]
    assert [r.passed for r in decide([BEATS_BOTH, ratio], Exams(PERFECT), seed=1)] == [False, False]


@pytest.mark.parametrize("rule", [{"beats": ["Base"]}, {"max_drop_versus_base": 0.5}, {"min": 0.0}])
def test_what_no_row_can_show_is_not_passed(rule: dict[str, Any]) -> None:
    [result] = decide([GateRule(metric="PreferenceAccuracy", **rule)], Exams(PERFECT, BASE), seed=1)
    assert not result.passed
    assert result.message == (
        "PreferenceAccuracy could be measured on none of the 90 held-out rows: none has what it compares"
    )


def test_the_bootstrap_is_that_of_drawing_rows() -> None:
    import numpy as np

    tuned = [i % 10 < 6 for i in range(200)]
    other = [i % 10 >= 5 for i in range(200)]
    difference = np.asarray(tuned, dtype=int) - np.asarray(other, dtype=int)
    drawn = np.random.default_rng(7).integers(0, 200, size=(10_000, 200))
    low, high = np.percentile(difference[drawn].mean(1), (2.5, 97.5))
    assert paired_bootstrap(tuned, other, seed=7) == pytest.approx((low, difference.mean(), high), abs=0.01)
    assert paired_bootstrap(tuned, other, seed=7) == paired_bootstrap(tuned, other, seed=7)


def test_the_loss_counts_tokens_and_the_perplexity_stays_finite() -> None:
    scores = [RowScore(id="a", nll=3.0, tokens=1), RowScore(id="b", nll=1.0, tokens=3)]
    assert figures(scores, ["Loss"]) == {"Loss": 1.0}
    assert figures([RowScore(id="a", nll=9e9, tokens=1)], ["Perplexity"])["Perplexity"] < float("inf")


def test_the_majority_class_is_that_of_the_training_rows() -> None:
    assert (
        share(majority_baseline(["a", "b", "b", "a"], ["a", "b", "b", "b"])) == 0.25
    )  # a tie: the first in the alphabet


def test_macro_f1_is_the_mean_over_labels_and_its_table_counts_rows() -> None:
    # red: 30 of 90 said rightly, so precision 1/3 and recall 1; green and blue are never said.
    assert figures(ALWAYS_RED, ["MacroF1"])["MacroF1"] == pytest.approx(0.5 / 3)
    assert figures(PERFECT, ["MacroF1"]) == {"MacroF1": 1.0}
    assert confusion(ALWAYS_RED) == {"blue": {"red": 30}, "green": {"red": 30}, "red": {"red": 30}}


def test_each_label_has_its_own_figures() -> None:
    found = label_figures(ALWAYS_RED) or {}
    assert found["red"].wire() == {"rows": 30, "precision": pytest.approx(1 / 3), "recall": 1.0, "f1": 0.5}
    assert found["blue"].wire() == {"rows": 30, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert label_figures([RowScore(id="a", nll=1, tokens=1)]) is None


def test_macro_f1_of_several_classes_is_the_mean_over_classes_not_over_sets() -> None:
    pairs = [(["a", "b"], ["a"]), (["a"], ["a"]), (["b"], ["a", "b"]), ([], [])]
    rows = [
        RowScore(id="x", nll=1, tokens=1, label="+".join(has), predicted="+".join(said), classes=has, said=said)
        for has, said in pairs
    ]
    # a: two of three sayings right, both rows found; b: one saying, right, one of two rows found.
    assert figures(rows, ["MacroF1"])["MacroF1"] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_macro_f1_of_many_rows_and_classes_takes_no_memory_for_all_pairs_of_them() -> None:
    names = [f"class {place}" for place in range(500)]
    rows = [
        RowScore(id="x", nll=1, tokens=1, label=names[row % 500], predicted=names[(row + row % 2) % 500])
        for row in range(5_000)
    ]
    tracemalloc.start()
    found, (_, most) = statistic(rows, "MacroF1"), tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * 2**20, "every pair would be 20 MiB a count"
    # Even classes are found, and are said for the odd ones before them too; odd ones are never said.
    assert found.of_sums(found.total) == pytest.approx(0.5 * 2 / 3)
    once = np.ones((2, 5_000)) * [[1], [3]]
    assert found.drawn(once).tolist() == [found.total.tolist(), (3 * found.total).tolist()]


def test_both_ways_to_draw_rows_agree() -> None:
    ours, theirs = correct(PERFECT, "Accuracy"), correct(BASE, "Accuracy")
    general = paired_difference(statistic(PERFECT, "Accuracy"), statistic(BASE, "Accuracy"), seed=3)
    assert general == pytest.approx(paired_bootstrap(ours, theirs, seed=3), abs=0.012)


def test_a_loss_is_drawn_by_tokens() -> None:
    rows = [RowScore(id=str(i), nll=float(i % 7), tokens=1 + i % 5) for i in range(40)]
    better = [row.model_copy(update={"nll": row.nll / 2}) for row in rows]
    interval = paired_difference(statistic(rows, "Loss"), statistic(better, "Loss"), seed=1)
    assert interval.low < interval.value < interval.high
    assert interval.value == pytest.approx(figures(rows, ["Loss"])["Loss"] - figures(better, ["Loss"])["Loss"])


def test_a_verdict_says_which_bound_decided() -> None:
    rule = GateRule(metric="Loss", min_delta_versus_base=0.1)
    better = [row.model_copy(update={"nll": 1.0 if i % 2 else 0.0}) for i, row in enumerate(BASE)]
    [result] = decide([rule], Exams(better, BASE), seed=42)
    assert result.passed
    assert result.message == (
        "Loss is 0.25 on 90 rows: better than the base by at least 0.1: +0.25, 95 % interval +0.2000 to +0.3000: yes"
    )


def test_a_row_without_a_value_counts_for_nothing() -> None:
    margins = [2.0, None, -1.0, 3.0]
    scores = [RowScore(id=str(i), nll=1.0, tokens=1, margin=margin) for i, margin in enumerate(margins)]
    found = figures(scores, ["PreferenceAccuracy", "RewardMargin"])
    assert found == pytest.approx({"PreferenceAccuracy": 2 / 3, "RewardMargin": 4 / 3})


def test_rows_that_were_not_answered_count_for_nothing() -> None:
    some = [row if i < 60 else row.model_copy(update={"exact": None}) for i, row in enumerate(PERFECT)]
    base = [row if i < 60 else row.model_copy(update={"exact": None}) for i, row in enumerate(BASE)]
    rule = GateRule(metric="ExactMatch", min=1.0, beats=["Base", "MajorityClass"])
    [result] = decide([rule], Exams(some, base, MAJORITY), seed=1)
    assert result.passed, result.message
    assert result.message.startswith("ExactMatch is 1 on 60 rows: ")


def test_a_drop_on_another_task_is_allowed_up_to_a_limit_and_beyond_chance() -> None:
    worse = [row.model_copy(update={"nll": 1.2 if i % 2 else 1.1}) for i, row in enumerate(BASE)]
    exams = Exams(PERFECT, BASE, suites={"general": SuiteScores(base=BASE, tuned=worse)})

    def passed(**limit: float) -> bool:
        [result] = decide([GateRule(metric="Loss", suite="general", **limit)], exams, seed=1)  # type: ignore[arg-type]
        assert result.message.startswith("Loss is 0.575 on 90 rows of suite general: ")
        return result.passed

    assert passed(max_drop_versus_base=0.1)
    assert not passed(max_drop_versus_base=0.05)
    assert not passed(min_delta_versus_base=0)
    [absent] = decide([GateRule(metric="Loss", suite="other", max=9)], exams, seed=1)
    assert not absent.passed


def test_every_metric_with_outcomes_has_its_gain_and_how_sure_it_is() -> None:
    """One by one they are what the gate decides by."""
    metrics: list[Metric] = ["Loss", "Accuracy", "MacroF1", "Bleu", "LatencyP50Seconds"]
    found = gains(metrics, PERFECT, BASE, seed=3)
    assert found is not None
    assert list(found) == ["Loss", "Accuracy", "MacroF1"], (
        "no answer was written, and of a latency no interval is drawn"
    )
    assert found["Loss"].value == pytest.approx(0.4), "of a loss what it is lower by"
    for name in metrics[:3]:
        gain = found[name]
        assert gain.low - 1e-9 <= gain.value <= gain.high + 1e-9
        assert (gain.low, gain.value, gain.high) == pytest.approx(improvement(name, PERFECT, BASE, seed=3))
    assert gains(metrics, PERFECT, None, seed=3) is None, "the base was not evaluated"


def test_a_change_is_told_by_its_bounds() -> None:
    gain = Gain(low=-0.1, value=0.2, high=0.5)
    assert (gain.of_change("Accuracy"), gain.of_change("Loss")) == ("-0.1 to +0.5", "-0.5 to +0.1")
    assert Gain(low=0, value=0, high=0).of_change("Loss") == "+0 to +0"


@pytest.mark.parametrize(("rows", "count"), [(1, 10_000), (20_000, 10_000), (100_000, 2_000), (10_000_000, 1_000)])
def test_many_rows_are_drawn_again_less_often(rows: int, count: int) -> None:
    assert resamples(rows) == count
