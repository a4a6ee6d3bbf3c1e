"""Decide how base and tuned model are compared where the spec leaves it out. Pure; called by :mod:`finetune_trainer.plan`.

metrics              all of the method's that need not be named; Accuracy and MacroF1 with labels only (classes have their own)
maxNewTokens         those of the longest answer held out, at most half of the base's positions; of methods that sample answers, as in training
"""

from collections.abc import Collection

from finetune_api.matrix import ANSWERED, METRICS, ON_REQUEST, MethodName, foreign_metrics
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GenerationSpec, Metric, rows_refusal
from finetune_trainer import sampling
from finetune_trainer.choices import Choices
from finetune_trainer.sizing import Situation
from finetune_trainer.text_metrics import format_check

LONGEST_ANSWER = 4096
ANSWERED_ROWS = 1_000
"""Both models write an answer to each; of a share of so many rows the 95 % interval is at most 6.2 points wide."""
WRITERS: tuple[MethodName, ...] = ("sft", "ppo", "grpo")
"""Methods whose rows have one right answer, beside which the model's own is laid."""


def resolved_evaluation(seen: Situation, choices: Choices) -> EvaluationSpec:
    """Nothing left out. Raises Failure where the rows do not have what is asked for."""
    stated = seen.spec.evaluation or EvaluationSpec()
    _check_labels(seen.method, stated)
    if seen.held_out is None:
        if sentence := rows_refusal(stated):  # the operator refuses it before; an image may be older
            raise Failure(Reason.CONFIG_INVALID, sentence)
        return stated
    gated = [rule.metric for rule in stated.gate or () if not rule.suite]
    if sentence := foreign_metrics(seen.method, {*(stated.metrics or ()), *gated}):
        raise Failure(Reason.CONFIG_INVALID, f"evaluation: {sentence}")
    format_check(stated.answer_format)
    usual = _usual_metrics(seen.method, stated)
    metrics = choices.take("evaluation.metrics", stated.metrics, usual, "those that fit method and labels")
    _check_use(seen.method, stated, {*metrics, *gated})
    if {*metrics, *gated} & ANSWERED:
        generation = _generation(seen, stated, choices)
        samples = choices.take("evaluation.samples", stated.samples, 5, "shown in report.html")
        stated = stated.model_copy(
            update={"samples": samples, "generation": generation, "max_new_tokens": generation.max_new_tokens}
        )
    return stated.model_copy(update={"metrics": metrics})


def _check_use(method: MethodName, stated: EvaluationSpec, measured: set[Metric]) -> None:
    """Raises Failure for fields that none of the metrics would use."""
    of_answers = {
        "generation": stated.generation,
        "maxNewTokens": stated.max_new_tokens,
        "samples": stated.samples,
        "answerFormat": stated.answer_format,
    }
    if not measured & ANSWERED:
        _refuse(method, [name for name, value in of_answers.items() if value], measured, ANSWERED)
    if "FormatCompliance" not in measured:
        _refuse(method, ["answerFormat"] if stated.answer_format else [], measured, {"FormatCompliance"})


def _check_labels(method: MethodName, stated: EvaluationSpec) -> None:
    """Raises Failure where nothing would use them; of sft, ppo and grpo the rows are checked by them too, held out or not."""
    if method in WRITERS or not stated.labels:
        return
    of_its_own = " (its classes are those of its rows, or method.classification.labels)"
    _refuse(method, ["labels"], set(METRICS[method]), set(), of_its_own if method == "classification" else "")


def _refuse(
    method: MethodName, fields: list[str], measured: set[Metric], users: Collection[Metric], besides: str = ""
) -> None:
    if not fields:
        return
    names = " and ".join(f"evaluation.{field}" for field in fields)
    possible = [metric for metric in METRICS[method] if metric in users]
    if possible:
        cure = f"leave {names} out, or add to evaluation.metrics one of {', '.join(possible)}"
    else:
        cure = f"method {method} has no metric that does{besides}: leave {names} out"
    raise Failure(
        Reason.CONFIG_INVALID,
        f"none of the metrics ({', '.join(sorted(measured))}) uses {names}; {cure}",
    )


def _generation(seen: Situation, evaluation: EvaluationSpec, choices: Choices) -> GenerationSpec:
    stated = evaluation.generation or GenerationSpec()
    held_out = seen.held_out
    assert held_out is not None
    longest, why = _longest_answer(seen)
    tokens = evaluation.max_new_tokens if stated.max_new_tokens is None else stated.max_new_tokens
    field, rows = "evaluation.generation", len(held_out.tokens)
    temperature = choices.take(f"{field}.temperature", stated.temperature, 0.0, "greedy: the same answer every time")
    return GenerationSpec(
        max_new_tokens=choices.take("evaluation.maxNewTokens", tokens, longest, why),
        temperature=temperature,
        top_p=choices.take(f"{field}.topP", stated.top_p, 1.0, "every token") if temperature else None,
        stop_strings=stated.stop_strings,
        max_rows=choices.take(f"{field}.maxRows", stated.max_rows, *_answered_rows(rows)),
    )


def _answered_rows(rows: int) -> tuple[int, str]:
    if rows <= ANSWERED_ROWS:
        return rows, "every held-out row"
    return (
        ANSWERED_ROWS,
        f"the first ones of {rows} held-out rows: both models write every answer; likelihoods are of all rows",
    )


def _usual_metrics(method: MethodName, stated: EvaluationSpec) -> list[Metric]:
    """Without those that are only computed where they are named, and those whose needs are not stated."""
    without: set[Metric] = set() if stated.answer_format else {"FormatCompliance"}
    if method in WRITERS and not stated.labels:
        without |= {"Accuracy", "MacroF1"}
    named = set(ON_REQUEST) - {"FormatCompliance"}
    return [name for name in METRICS[method] if name not in without | named]


def _longest_answer(seen: Situation) -> tuple[int, str]:
    sampled = sampling.sampling_of(seen.spec)
    if sampled is not None:
        return sampled.max_new_tokens, "as in training"
    assert seen.held_out is not None
    longest, positions = max(1, min(LONGEST_ANSWER, seen.held_out.longest_answer)), seen.base.positions
    if positions is not None and longest > positions // 2:
        return max(1, positions // 2), "half of the base's positions, so that prompts keep the other half"
    return longest, "the longest held-out answer"
