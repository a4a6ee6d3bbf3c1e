"""Rows of other tasks under base and tuned model: what was forgotten."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from finetune_api.artifacts import PreparedSuite
from finetune_api.matrix import ANSWERED
from finetune_api.v1alpha1.finetunejob_status import SuiteStatus
from finetune_stage.gate import gains
from finetune_stage.rows import read_file
from finetune_stage.scores import EvaluationFile, Gain, RowScore, SuiteScores, figures
from finetune_trainer.encode import encoder, stop_tokens
from finetune_trainer.exam import Exam
from finetune_trainer.inputs import Inputs
from finetune_trainer.kept import kept_scores
from finetune_trainer.machine import Numerics

LONGEST_ROW = 8_192
"""Tokens of a row whose likelihood is measured, where the base can read more: memory grows with them. The training's own limit says
nothing of another task."""
Scores = dict[str, list[RowScore]]


class Loss(NamedTuple):
    """A metric in which the tuned model is worse than the base beyond chance."""

    suite: str
    metric: str
    base: float
    tuned: float
    gain: Gain
    """Below zero."""
    rows: int


def exams(inputs: Inputs, base: Any) -> dict[str, Exam]:
    """What is asked, by the name of the suite; ``base`` has model and tokenizer."""
    return {suite.name: _exam(inputs, suite, base) for suite in inputs.resolved.suites}


def _exam(inputs: Inputs, suite: PreparedSuite, base: Any) -> Exam:
    from finetune_trainer.answering import positions  # torch, which takes seconds

    rows = read_file(inputs.store, inputs.places, suite.file, suite.sha256)
    learned, most = inputs.resolved.adapter.virtual_tokens, positions(base.model)
    longest = LONGEST_ROW if most is None else min(LONGEST_ROW, most - learned)
    new_tokens, day = inputs.resolved.adapter.new_tokens, inputs.resolved.day
    encode = encoder(base.tokenizer, suite.format, answers_only=False, new_tokens=new_tokens, day=day)
    return Exam(
        encoder=encode,
        split=suite.name,
        rows=rows,
        metrics=frozenset(suite.metrics),
        labels=(),
        max_length=longest,
        max_new_tokens=min(suite.max_new_tokens, max(1, longest // 2)),
        stop_tokens=stop_tokens(encode, rows[0].fields, base.model.generation_config.eos_token_id),
        virtual_tokens=learned,
        seed=inputs.resolved.training.seed,
    )


def base_scores(model: Any, asked: dict[str, Exam], inputs: Inputs, numerics: Numerics) -> Scores:
    """The base's, taken before anything is learned; empty where the base is not evaluated."""
    if not inputs.resolved.evaluation.compare_with_base:
        return {}
    return {
        name: kept_scores(inputs.store, f"base-scores-{name}", partial(_scored, model, exam, numerics, "base"))
        for name, exam in asked.items()
    }


def tuned_scores(model: Any, asked: dict[str, Exam], base: Scores, numerics: Numerics) -> dict[str, SuiteScores]:
    """Of both models."""
    found = {}
    for name, exam in asked.items():
        before, after = base.get(name), _scored(model, exam, numerics, "tuned model")
        gained = gains(sorted(exam.metrics), after, before, exam.seed)
        found[name] = SuiteScores(base=before, tuned=after, gains=gained, cut_prompts=_cut_prompts(model, exam))
    return found


def _cut_prompts(model: Any, exam: Exam) -> int | None:
    from finetune_trainer.answering import cut_prompts  # torch, which takes seconds

    return cut_prompts(model, exam) if exam.metrics & ANSWERED else None


def _scored(model: Any, exam: Exam, numerics: Numerics, who: str) -> list[RowScore]:
    from finetune_trainer.evaluate import score  # torch, which takes seconds

    print(f"evaluating the {who} on {len(exam.rows)} rows of suite {exam.split}", flush=True)
    return score(model, exam, numerics)


def statuses(found: Mapping[str, SuiteScores], suites: list[PreparedSuite]) -> list[SuiteStatus] | None:
    """Their figures; None without suites."""
    made = [
        SuiteStatus(
            name=suite.name,
            rows=suite.rows,
            base=figures(scores.base, suite.metrics) if scores.base is not None else None,
            tuned=figures(scores.tuned, suite.metrics),
        )
        for suite in suites
        if (scores := found.get(suite.name)) is not None
    ]
    return made or None


def forgotten(file: EvaluationFile | None, suites: list[PreparedSuite]) -> list[Loss]:
    """Where the tuned model is worse than the base beyond chance."""
    found = (file.suites if file else None) or {}
    return [
        loss
        for suite in suites
        if file is not None and (scores := found.get(suite.name)) is not None and scores.base is not None
        for loss in _losses(suite, scores)
    ]


def _losses(suite: PreparedSuite, scores: SuiteScores) -> list[Loss]:
    before, after = figures(scores.base or [], suite.metrics), figures(scores.tuned, suite.metrics)
    return [
        Loss(suite.name, metric, before[metric], after[metric], gain, len(scores.tuned))
        for metric, gain in (scores.gains or {}).items()
        if gain.high < 0
    ]
