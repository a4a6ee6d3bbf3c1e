"""The page's sections, from what the job's folder already has. Every text of the job is escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log10

from finetune_api.artifacts import RateSearch, Resolved, ResolvedDelegation
from finetune_api.data_report import DataReport
from finetune_api.v1alpha1.finetunejob_status import (
    Diagnosis,
    EvaluationStatus,
    GateResult,
    MemoryMeasured,
    SuiteStatus,
    ValidationStatus,
)
from finetune_stage.page.curves import curve
from finetune_stage.page.data import data
from finetune_stage.page.figures import Figures, compared_figures
from finetune_stage.page.forecast import compared
from finetune_stage.page.frame import document, section, table
from finetune_stage.page.samples import Sample, samples
from finetune_stage.scores import Confusion, EvaluationFile, LabelFigures, SuiteScores

CURVES = {
    "loss": "Training loss",
    "validationLoss": "Validation loss",
    "learningRate": "Learning rate",
    "gradNorm": "Gradient norm",
    "tokensPerSecond": "Tokens per second",
}
"""Members of a line of metrics.jsonl. Others that are numbers in every line follow under their own names."""
NOT_DRAWN = {"step", "epoch", "tokens", "time"}
MOST_LABELS = 20
"""A wider confusion matrix is left to evaluation.json."""


@dataclass(frozen=True)
class Contents:
    """What the page shows."""

    resolved: Resolved | ResolvedDelegation
    metrics: list[dict[str, float | str]]
    """Lines of metrics.jsonl."""
    summary: EvaluationStatus | None
    confusion: Confusion | None
    diagnosis: list[Diagnosis]
    versions: dict[str, str]
    samples: Sequence[Sample] = ()
    """Prompts with their answers, fit to be shown."""
    data: DataReport | None = None
    peak: MemoryMeasured | None = None
    """Of the training, where it ran on a GPU."""
    validation: ValidationStatus | None = None
    """Where the validation loss was measured while training."""
    labels: dict[str, LabelFigures] | None = None
    """How each label fares."""
    search: RateSearch | None = None
    """For the learning rate, where there was one."""
    evaluation: EvaluationFile | None = None
    """How sure the figures of the summary are."""


def page(seen: Contents) -> str:
    """The whole document."""
    name = escape(f"{seen.resolved.namespace}/{seen.resolved.name}")
    tested, suites = seen.summary and seen.summary.suites, (seen.evaluation and seen.evaluation.suites) or {}
    sections = [
        _head(seen),
        section("What stands out", _diagnosis(seen.diagnosis)),
        section("Before and after", _figures(seen)),
        *(section(f"Suite {escape(each.name)}", _suite(each, suites.get(each.name))) for each in tested or ()),
        section("Gate", "".join(map(_verdict, (seen.summary.gate if seen.summary else None) or []))),
        section("Answers", samples(seen.samples)),
        section("Label by label", _labels(seen.labels)),
        section("Right label against most probable label", _confusion(seen.confusion)),
        section("Course", _curves(seen.metrics) + _ending(seen.validation)),
        section("Search for the learning rate", _search(seen.search)),
        section("Plan against measured", _plan(seen)),
        section("Data", _data(seen.resolved) + data(seen.data)),
        section("Decided for you", _choices(seen.resolved)),
        section("Made with", table(["Library", "Version"], [[escape(k), escape(v)] for k, v in seen.versions.items()])),
    ]
    return document(name, sections)


def _head(seen: Contents) -> str:
    resolved = seen.resolved
    verdicts = seen.summary.gate if seen.summary else None
    if not verdicts:
        badge = '<span class="badge mark">no gate</span>'
    elif all(verdict.passed for verdict in verdicts):
        badge = '<span class="badge good">gate passed</span>'
    else:
        badge = '<span class="badge bad">gate failed</span>'
    return (
        f"<header><h1>{escape(resolved.name)} {badge}</h1>"
        f'<p class="under">{escape(_course(resolved))} · namespace {escape(resolved.namespace)}</p></header>'
    )


def _course(resolved: Resolved | ResolvedDelegation) -> str:
    base = resolved.base_model.uri or "random weights"
    if isinstance(resolved, ResolvedDelegation):
        return f"{resolved.method} on {base}, at the provider"
    steps = f"{resolved.training.steps:,} steps of {resolved.training.batch_size} rows"
    return f"{resolved.method} with {resolved.adapter.type} on {base} · {steps}"


def _diagnosis(found: list[Diagnosis]) -> str:
    return "".join(
        f'<div class="card"><span class="badge mark">{each.kind}</span><p>{escape(each.message)}</p></div>'
        for each in found
    )


def _verdict(verdict: GateResult) -> str:
    badge = ("good", "holds") if verdict.passed else ("bad", "does not hold")
    return f'<div class="card"><span class="badge {badge[0]}">{badge[1]}</span><p>{escape(verdict.message)}</p></div>'


def _figures(seen: Contents) -> str:
    summary, file = seen.summary, seen.evaluation
    if summary is None or not summary.rows:
        return ""
    figures = Figures(summary.tuned, summary.base or {}, (file and file.gains) or {})
    before = Figures(summary.tuned, summary.previous or {}, (file and file.gains_on_previous) or {})
    under = f"On {summary.rows:,} rows of the {escape(summary.split)} split.{_cut(file.cut_prompts if file else None)}"
    return f'{compared_figures(figures, before)}<p class="under">{under}</p>'


def _suite(suite: SuiteStatus, found: SuiteScores | None) -> str:
    figures = Figures(suite.tuned, suite.base or {}, (found and found.gains) or {})
    under = f"On {suite.rows:,} rows of another task.{_cut(found.cut_prompts if found else None)}"
    return f'{compared_figures(figures)}<p class="under">{under}</p>'


def _cut(prompts: int | None) -> str:
    if not prompts:
        return ""
    return f" Of {prompts:,} prompts the beginning was not read: with an answer they are longer than the base can read."


def _labels(found: dict[str, LabelFigures] | None) -> str:
    if not found or len(found) > MOST_LABELS:
        return ""
    rows = [
        [escape(label), str(each.rows), *(f"{value:.3f}" for value in (each.precision, each.recall, each.f1))]
        for label, each in found.items()
    ]
    return table(["Label", "Rows", "Precision", "Recall", "F1"], rows, numbers={1, 2, 3, 4})


def _confusion(counted: Confusion | None) -> str:
    labels = sorted({*(counted or {}), *(said for row in (counted or {}).values() for said in row)})
    if not counted or len(labels) > MOST_LABELS:
        return ""
    rows = [
        [f"<b>{escape(right)}</b>", *(str(said.get(label, 0) or "·") for label in labels)]
        for right, said in sorted(counted.items())
    ]
    return table(["", *map(escape, labels)], rows, numbers=set(range(1, len(labels) + 1)))


def _curves(lines: list[dict[str, float | str]]) -> str:
    others = [name for name in (lines[-1] if lines else {}) if name not in {*CURVES, *NOT_DRAWN}]
    drawn = [
        curve(CURVES.get(name, name), [(float(line["step"]), float(line[name])) for line in lines if name in line])
        for name in [*CURVES, *others]
        if not any(isinstance(line.get(name), str) for line in lines)
    ]
    return f'<div class="curves">{"".join(drawn)}</div>' if any(drawn) else ""


def _ending(validation: ValidationStatus | None) -> str:
    return f'<p class="under">{escape(validation.message)}</p>' if validation else ""


def _search(found: RateSearch | None) -> str:
    if found is None:
        return ""
    points = [(log10(rate), loss) for rate, loss in zip(found.rates, found.losses, strict=True)]
    drawn = curve("Loss over the learning rate", points, lambda exponent: f"{10**exponent:.1g}")
    return f'<div class="curves">{drawn}</div><p class="under">{found.learning_rate:g}: {escape(found.reason)}</p>'


def _plan(seen: Contents) -> str:
    plan = seen.resolved.forecast if isinstance(seen.resolved, Resolved) else None
    rows = [[row.name, *(each or "-" for each in row[1:])] for row in compared(plan, seen.peak, seen.metrics)]
    return table(["", "Planned", "Measured", "Planned less measured"], rows, numbers={1, 2, 3}) if rows else ""


def _data(resolved: Resolved | ResolvedDelegation) -> str:
    rows = [[split.statistics.name, f"{split.statistics.rows:,}"] for split in resolved.splits]
    return f'{table(["Split", "Rows"], rows, numbers={1})}<p class="under">{resolved.format}, <code>{resolved.data_digest}</code></p>'


def _choices(resolved: Resolved | ResolvedDelegation) -> str:
    rows = [[f"<code>{escape(c.field)}</code>", escape(c.value), escape(c.reason)] for c in resolved.choices]
    return table(["Field", "Value", "Why"], rows) if rows else ""
