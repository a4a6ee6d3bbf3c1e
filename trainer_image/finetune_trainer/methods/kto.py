"""Kahneman-Tversky optimisation: answers with a verdict each become more or less probable, measured from a reference."""

import random
from dataclasses import replace
from typing import Any

from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from finetune_api.artifacts import Resolved
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.methods import KtoMethod
from finetune_stage.scores import RowScore
from finetune_trainer.adapter import reference
from finetune_trainer.encode import IGNORED, Encoder, Example, Fields
from finetune_trainer.evaluate import Exam, at_rest, finite, likelihoods
from finetune_trainer.machine import Numerics
from finetune_trainer.methods.lesson import Lesson, MeanOverRows
from finetune_trainer.origin import ROW

LOSSES = {"Kto": "kto", "ApoZeroUnpaired": "apo_zero_unpaired"}
"""TRL's names."""
SIZES = ("per_device_train_batch_size", "gradient_accumulation_steps")


class VerdictTrainer(MeanOverRows, KTOTrainer):  # type: ignore[misc]
    """TRL's, watched; the rows are tokenised already, and know the reference's log-probabilities.

    What the loss Kto measures from is estimated from the answers of a micro batch: with another size of it, it is another estimate.
    """

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset


def dataset(encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
    """Columns prompt_ids, completion_ids, label, row, and KL_completion_ids: an answer to another prompt of the same batch.

    Shuffled by the seed, as TRL reads them in order: both sides of a preference are no batch of their own.
    """
    training = resolved.training
    read = (_row(encoder, fields, training.max_length) | {ROW: number} for number, fields in enumerate(rows))
    kept = [row for row in read if row["completion_ids"]]
    if not kept:
        raise Failure(
            Reason.DATA_INVALID,
            f"none of the {len(rows)} training rows has an answer within training.maxLength ({training.max_length}); raise it",
        )
    if len(kept) < len(rows):
        print(
            f"{len(rows) - len(kept)} training rows left out: no answer within {training.max_length} tokens", flush=True
        )
    random.Random(training.seed).shuffle(kept)
    kept = kept[: training.steps * training.batch_size]  # of the others the reference need know nothing
    for start in range(0, len(kept), training.batch_size):
        batch = kept[start : start + training.batch_size]
        answers = [row["completion_ids"] for row in batch]
        for row, other in zip(batch, [answers[-1], *answers[:-1]], strict=True):
            row["KL_completion_ids"] = other[: training.max_length - len(row["prompt_ids"])]
    return Dataset.from_list(kept)


def trainer(lesson: Lesson) -> VerdictTrainer:
    """As for dpo, the reference's log-probabilities are taken once, before anything is learned."""
    stated = lesson.resolved.method_settings.kto or KtoMethod()
    lesson = replace(lesson, arguments=lesson.arguments | _micro_batch(lesson, stated))
    is_whole = lesson.resolved.adapter.type == "Full"
    made = VerdictTrainer(
        model=lesson.model,
        args=KTOConfig(
            **lesson.arguments,
            max_length=lesson.resolved.training.max_length,
            loss_type=LOSSES[stated.loss_type or "Kto"],
            beta=stated.beta or 0.1,
            desirable_weight=stated.desirable_weight if stated.desirable_weight is not None else 1.0,
            undesirable_weight=stated.undesirable_weight if stated.undesirable_weight is not None else 1.0,
            disable_dropout=False,  # the reference was taken without; the adapter's own is the user's choice
            precompute_ref_log_probs=is_whole,  # as in dpo
        ),
        train_dataset=_with_reference(lesson),
        processing_class=lesson.tokenizer,
    )
    made.precompute_ref_logps = True
    if not is_whole:
        made.model.delete_adapter("ref")  # TRL's copy of what learns, of no use here
    return made


def _micro_batch(lesson: Lesson, stated: KtoMethod) -> dict[str, int]:
    """At least two rows where the loss compares them, though an attempt after one that ran out of memory asks for less."""
    rows, times = (lesson.arguments[name] for name in SIZES)
    if rows > 1 or stated.loss_type == "ApoZeroUnpaired":
        return {}
    share = rows * times
    if share < 2 or lesson.resolved.training.micro_batch_size < 2:  # the plan refuses it before; an image may be older
        raise Failure(
            Reason.CONFIG_INVALID,
            "method kto with loss Kto compares the answers of a micro batch, and one row is none: "
            "set training.microBatchSize to at least 2, or a smaller training.maxLength where memory is short",
        )
    least = next(size for size in range(2, share + 1) if share % size == 0)
    return dict(zip(SIZES, (least, share // least), strict=True))


def score(model: Any, exam: Exam, numerics: Numerics) -> list[RowScore]:
    """The loss of every held-out answer; where a prompt has a good and a bad one, the good one's lead in nats."""
    answers = [exam.encoder.answer(row.fields) for row in exam.rows]
    cut = [Example(each.input_ids[-exam.max_length :], each.labels[-exam.max_length :]) for each in answers]
    with at_rest(model), numerics.autocast():
        found = likelihoods(model, cut)
    bad = {
        str(row.fields["prompt"]): nll
        for row, (nll, _) in zip(exam.rows, found, strict=True)
        if not row.fields["label"]
    }
    scores = []
    for row, (nll, tokens) in zip(exam.rows, found, strict=True):
        other = bad.get(str(row.fields["prompt"])) if row.fields["label"] else None
        margin = None if other is None else other - nll
        scores.append(RowScore(id=row.id, nll=finite(nll, row.id), tokens=tokens, margin=margin))
    return scores


def _row(encoder: Encoder, fields: Fields, max_length: int) -> dict[str, Any]:
    example = encoder.answer(fields)
    start = next((place for place, label in enumerate(example.labels) if label != IGNORED), len(example.labels))
    ids = example.input_ids[:max_length]
    return {"prompt_ids": ids[:start], "completion_ids": ids[start:], "label": bool(fields["label"])}


def _with_reference(lesson: Lesson) -> Any:
    rows = lesson.dataset
    numerics = Numerics("cpu" if lesson.arguments["use_cpu"] else "cuda", lesson.arguments["bf16"])
    with reference(lesson.model), at_rest(lesson.model), numerics.autocast():
        for name, answer in (("ref_logps", "completion_ids"), ("ref_KL_logps", "KL_completion_ids")):
            examples = [
                Example(row["prompt_ids"] + row[answer], [IGNORED] * len(row["prompt_ids"]) + row[answer])
                for row in rows
            ]
            rows = rows.add_column(name, [-nll for nll, _ in likelihoods(lesson.model, examples)])
    return rows
