"""Kahneman-Tversky optimisation: answers with a verdict each become more or less probable, measured from a reference."""

import random
from dataclasses import replace
from typing import Any

import torch
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
from finetune_trainer.methods.lesson import HeldOut, Lesson, MeanOverRows
from finetune_trainer.origin import ROW
from finetune_trainer.plan_course import ONE_ANSWER
from finetune_trainer.validation import Measure, Sums

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
    kept = _answered(encoder, rows, resolved, "training rows")
    kept = kept[: training.steps * training.batch_size]  # of the others the reference need know nothing
    batches = [kept[start : start + training.batch_size] for start in range(0, len(kept), training.batch_size)]
    return Dataset.from_list([row for batch in batches for row in _with_others(batch, training.max_length)])


def held_out(rows: HeldOut, resolved: Resolved) -> Any:
    """All validation rows, of the same shape, as one batch."""
    kept = _answered(rows.encoder, [row.fields for row in rows.rows], resolved, "validation rows")
    return Dataset.from_list(_with_others(kept, resolved.training.max_length))


def _answered(encoder: Encoder, rows: list[Fields], resolved: Resolved, what: str) -> list[dict[str, Any]]:
    """Those whose answer is not cut off, shuffled."""
    max_length = resolved.training.max_length
    read = (_row(encoder, fields, max_length) | {ROW: number} for number, fields in enumerate(rows))
    kept = [row for row in read if row["completion_ids"]]
    if not kept:
        raise Failure(
            Reason.DATA_INVALID,
            f"none of the {len(rows)} {what} has an answer within training.maxLength ({max_length}); raise it",
        )
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} {what} left out: no answer within {max_length} tokens", flush=True)
    random.Random(resolved.training.seed).shuffle(kept)
    return kept


def _with_others(batch: list[dict[str, Any]], max_length: int) -> list[dict[str, Any]]:
    answers = [row["completion_ids"] for row in batch]
    return [
        row | {"KL_completion_ids": other[: max_length - len(row["prompt_ids"])]}
        for row, other in zip(batch, [answers[-1], *answers[:-1]], strict=True)
    ]


def trainer(lesson: Lesson) -> VerdictTrainer:
    """As for dpo, the reference's log-probabilities are taken once, before anything is learned."""
    stated = lesson.resolved.method_settings.kto or KtoMethod()
    lesson = replace(lesson, arguments=lesson.arguments | _micro_batch(lesson, stated))
    own_loss = _own_loss(lesson, stated) if lesson.held_out else None
    is_whole = lesson.resolved.adapter.type == "Full"
    good, bad = _weights(stated)
    made = VerdictTrainer(
        model=lesson.model,
        args=KTOConfig(
            **lesson.arguments,
            max_length=lesson.resolved.training.max_length,
            loss_type=LOSSES[stated.loss_type or "Kto"],
            beta=stated.beta or 0.1,
            desirable_weight=good,
            undesirable_weight=bad,
            disable_dropout=False,  # the reference was taken without; the adapter's own is the user's choice
            precompute_ref_log_probs=is_whole,  # as in dpo
        ),
        train_dataset=_with_reference(lesson, lesson.dataset),
        processing_class=lesson.tokenizer,
    )
    made.precompute_ref_logps, made.own_loss = True, own_loss
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


def _with_reference(lesson: Lesson, rows: Any) -> Any:
    with reference(lesson.model):
        for name, answer in (("ref_logps", "completion_ids"), ("ref_KL_logps", "KL_completion_ids")):
            rows = rows.add_column(name, _log_probabilities(lesson.model, rows, answer, _numerics(lesson)))
    return rows


def _own_loss(lesson: Lesson, stated: KtoMethod) -> Measure:
    """As in training, but that the distance to the reference is estimated from all validation rows together: with their order, it is
    the same for every model, and no size of a micro batch comes into it."""
    assert lesson.held_out is not None
    compares = stated.loss_type != "ApoZeroUnpaired"
    rows, numerics = _with_reference(lesson, held_out(lesson.held_out, lesson.resolved)), _numerics(lesson)
    if compares and len(rows) < 2:  # of those the plan has seen some may have no answer within maxLength
        raise Failure(Reason.DATA_INVALID, ONE_ANSWER)
    signs = torch.tensor([1.0 if good else -1.0 for good in rows["label"]], dtype=torch.float64)
    weights = torch.where(signs > 0, *_weights(stated))

    def gains(model: Any, answer: str, name: str) -> torch.Tensor:
        found = _log_probabilities(model, rows, answer, numerics)
        return torch.tensor(found, dtype=torch.float64) - torch.tensor(rows[name], dtype=torch.float64)

    def measure(model: Any) -> Sums:
        own = gains(model, "completion_ids", "ref_logps")
        if compares:
            own = own - gains(model, "KL_completion_ids", "ref_KL_logps").mean().clamp(min=0)
        losses = weights * torch.sigmoid(-signs * (stated.beta or 0.1) * own)
        return Sums(losses.sum().item(), float(len(losses)))

    return measure


def _weights(stated: KtoMethod) -> tuple[float, float]:
    """Of good and of bad answers."""
    good, bad = stated.desirable_weight, stated.undesirable_weight
    return 1.0 if good is None else good, 1.0 if bad is None else bad


def _log_probabilities(model: Any, rows: Any, answer: str, numerics: Numerics) -> list[float]:
    """Of every row's answer in this column; without dropout."""
    examples = [
        Example(row["prompt_ids"] + row[answer], [IGNORED] * len(row["prompt_ids"]) + row[answer]) for row in rows
    ]
    with at_rest(model), numerics.autocast():
        return [-nll for nll, _ in likelihoods(model, examples)]


def _numerics(lesson: Lesson) -> Numerics:
    """As in training."""
    return Numerics("cpu" if lesson.arguments["use_cpu"] else "cuda", lesson.arguments["bf16"])
