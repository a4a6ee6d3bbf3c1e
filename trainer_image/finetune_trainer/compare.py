"""Base against tuned model on the same held-out rows, and the gate's verdict: evaluation.json."""

from collections.abc import Callable
from typing import Any, NamedTuple

from finetune_api.matrix import ANSWERED
from finetune_api.v1alpha1.evaluation import GenerationSpec
from finetune_api.v1alpha1.finetunejob_status import EvaluationStatus
from finetune_stage.chats import answer_of
from finetune_stage.gate import Exams, decide, gains
from finetune_stage.scores import (
    EvaluationFile,
    RowScore,
    SuiteScores,
    confusion,
    figures,
    label_figures,
    majority_baseline,
    share,
    statistic,
)
from finetune_trainer.answering import cut_prompts
from finetune_trainer.encode import Encoder
from finetune_trainer.evaluate import Exam, at_rest
from finetune_trainer.inputs import Inputs
from finetune_trainer.kept import kept_scores
from finetune_trainer.machine import Numerics
from finetune_trainer.methods.lesson import HeldOut
from finetune_trainer.rewards import Judge
from finetune_trainer.sharding import in_step
from finetune_trainer.suites import statuses
from finetune_trainer.text_metrics import format_check
from finetune_trainer.validation import Measure, Sums, Validation


def make_exam(inputs: Inputs, encoder: Encoder, stop_tokens: list[int], judge: Judge | None) -> Exam | None:
    """What both models are asked; None without held-out rows."""
    split, rows = inputs.held_out()
    if not rows:
        return None
    spec = inputs.resolved.evaluation
    metrics = frozenset(spec.metrics or ()) | {rule.metric for rule in spec.gate or () if not rule.suite}
    return Exam(
        encoder=encoder,
        split=split,
        rows=rows,
        metrics=metrics,
        labels=tuple(spec.labels or ()),
        max_length=inputs.resolved.training.max_length,
        max_new_tokens=spec.max_new_tokens or 0,
        stop_tokens=stop_tokens,
        judge=judge,
        keeps_format=format_check(spec.answer_format),
        generation=spec.generation or GenerationSpec(),
        virtual_tokens=inputs.resolved.adapter.virtual_tokens,
        samples=spec.samples or 0,
        seed=inputs.resolved.training.seed,
    )


Score = Callable[[Any, Exam, Numerics], list[RowScore]]
"""A method's own: a model's outcome on every row."""


def base_scores(
    model: Any, exam: Exam | None, inputs: Inputs, numerics: Numerics, score: Score
) -> list[RowScore] | None:
    """The base's scores, taken before anything is learned."""
    if exam is None or not inputs.resolved.evaluation.compare_with_base:
        return None

    def scored() -> list[RowScore]:
        print(f"evaluating the base on {len(exam.rows)} held-out rows", flush=True)
        return score(model, exam, numerics)

    return kept_scores(inputs.store, "base-scores", scored)


def validation(
    inputs: Inputs, rows: HeldOut | None, numerics: Numerics, score: Score, own_loss: Measure | None
) -> Validation | None:
    """Measures the loss on these rows: the method's own, or as the evaluation would. None where the job does not ask for it."""
    if rows is None:
        return None
    training = inputs.resolved.training
    return Validation(training, own_loss or _evaluated(rows, training.max_length, numerics, score), rows.world)


def _evaluated(rows: HeldOut, max_length: int, numerics: Numerics, score: Score) -> Measure:
    """Of this process's share of the rows."""
    exam = Exam(
        encoder=rows.encoder,
        split="validation",
        rows=rows.rows[rows.world.rank :: rows.world.size],
        metrics=frozenset({"Loss"}),
        labels=(),
        max_length=max_length,
        max_new_tokens=0,
        stop_tokens=[],
    )

    def measure(model: Any) -> Sums:
        with at_rest(model), in_step(model, rows.world):
            scores = score(model, exam, numerics)
        return Sums(*statistic(scores, "Loss").total.tolist())

    return measure


class Others(NamedTuple):
    """What is compared beside base and tuned model on the held-out rows."""

    suites: dict[str, SuiteScores]
    previous: list[RowScore] | None = None


def compare(
    model: Any,
    exam: Exam | None,
    base: list[RowScore] | None,
    inputs: Inputs,
    numerics: Numerics,
    score: Score,
    others: Others,
) -> EvaluationFile | None:
    """Score the tuned model and decide; None where there is nothing to evaluate and nothing to decide."""
    if exam is None:
        return _without_rows(inputs, others.suites)
    print(f"evaluating the tuned model on {len(exam.rows)} held-out rows", flush=True)
    tuned = score(model, exam, numerics)
    majority, metrics, seed = _majority(inputs, exam), sorted(exam.metrics), inputs.resolved.training.seed
    summary = _summary(inputs, exam, Exams(tuned, base, majority, *others))
    return EvaluationFile(
        summary=summary,
        seed=seed,
        base=base,
        tuned=tuned,
        majority=majority,
        confusion=confusion(tuned),
        labels=label_figures(tuned),
        suites=others.suites or None,
        previous=others.previous,
        gains=gains(metrics, tuned, base, seed),
        gains_on_previous=gains(metrics, tuned, others.previous, seed),
        cut_prompts=cut_prompts(model, exam) if exam.metrics & ANSWERED else None,
    )


def _summary(inputs: Inputs, exam: Exam, seen: Exams) -> EvaluationStatus:
    metrics, rules = sorted(exam.metrics), inputs.resolved.evaluation.gate or []
    return EvaluationStatus(
        split=exam.split,
        rows=len(exam.rows),
        base=figures(seen.base, metrics) if seen.base is not None else None,
        tuned=figures(seen.tuned, metrics),
        majority_class=share(seen.majority) if seen.majority is not None else None,
        previous=figures(seen.previous, metrics) if seen.previous is not None else None,
        suites=statuses(seen.suites, inputs.resolved.suites),
        gate=decide(rules, seen, inputs.resolved.training.seed) if rules else None,
    )


def _without_rows(inputs: Inputs, suites: dict[str, SuiteScores]) -> EvaluationFile | None:
    """Where no rows are held out there may still be suites, or a gate that cannot pass."""
    rules, seed = inputs.resolved.evaluation.gate or [], inputs.resolved.training.seed
    if not rules and not suites:
        return None
    verdicts = decide(rules, Exams([], suites=suites), seed) if rules else None
    found = statuses(suites, inputs.resolved.suites)
    summary = EvaluationStatus(split="none", rows=0, tuned={}, gate=verdicts, suites=found)
    return EvaluationFile(summary=summary, seed=seed, base=None, tuned=[], majority=None, suites=suites or None)


def _majority(inputs: Inputs, exam: Exam) -> list[bool] | None:
    """Row by row, whether the most frequent training answer would be right."""
    if inputs.resolved.format not in ("Messages", "PromptCompletion"):
        return None
    train, held_out = ([answer_of(row.fields).strip() for row in rows] for rows in (inputs.splits["train"], exam.rows))
    return majority_baseline(train, held_out)
