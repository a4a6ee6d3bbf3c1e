"""Classification: a head on the language model says which class a text has, or which classes."""

from typing import Any

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from finetune_api.artifacts import Resolved
from finetune_stage.scores import RowScore
from finetune_trainer.encode import Encoder, Fields
from finetune_trainer.evaluate import Exam, at_rest, finite
from finetune_trainer.head import MULTI, class_head, text_scores
from finetune_trainer.machine import Numerics
from finetune_trainer.methods.lesson import Lesson, MeanOverRows
from finetune_trainer.origin import ROW


class ClassTrainer(MeanOverRows, Trainer):  # type: ignore[misc]
    """Transformers', watched; the model computes its own loss."""


def dataset(encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
    """Columns input_ids, row and labels: the class's place, or for several classes one number for each."""
    head = class_head(resolved)
    places = {label: place for place, label in enumerate(head.labels)}
    wanted: list[Any] = []
    for fields in rows:
        own = {places[label] for label in fields["labels"]}
        wanted.append([float(place in own) for place in range(len(places))] if head.problem == MULTI else min(own))
    ids = [_cut(encoder.training(fields).input_ids, resolved.training.max_length) for fields in rows]
    return Dataset.from_dict({"input_ids": ids, "labels": wanted, ROW: list(range(len(ids)))})


def trainer(lesson: Lesson) -> ClassTrainer:
    """Transformers' trainer with our settings."""
    if lesson.arguments["gradient_checkpointing"] and lesson.resolved.adapter.type != "Full":
        lesson.model.enable_input_require_grads()  # else nothing behind a frozen embedding learns
    made = ClassTrainer(
        model=lesson.model,
        args=TrainingArguments(**lesson.arguments),
        data_collator=DataCollatorWithPadding(lesson.tokenizer),
        train_dataset=lesson.dataset,
        processing_class=lesson.tokenizer,
    )
    made.model_accepts_loss_kwargs = False  # a mean over rows, to be divided by the accumulation
    return made


def score(model: Any, exam: Exam, numerics: Numerics) -> list[RowScore]:
    """Every row's outcome; before training the head is random, and its classes chance."""
    config = model.config
    several = config.problem_type == MULTI
    texts = [_cut(exam.encoder.training(row.fields).input_ids, exam.max_length) for row in exam.rows]
    with at_rest(model), numerics.autocast():
        found = text_scores(model, texts)
    outcomes = []
    for row, scores in zip(exam.rows, found, strict=True):
        places = [config.label2id[label] for label in row.fields["labels"]]
        said = [place for place, value in enumerate(scores) if value > 0] if several else [int(scores.argmax())]
        names, guesses = ([config.id2label[place] for place in sorted(which)] for which in (places, said))
        outcomes.append(
            RowScore(
                id=row.id,
                nll=finite(_loss(scores, places, several), row.id),
                tokens=1,
                label_correct=names == guesses,
                label=" + ".join(names),
                predicted=" + ".join(guesses),
                classes=names if several else None,
                said=guesses if several else None,
            )
        )
    return outcomes


def _loss(scores: torch.Tensor, places: list[int], several: bool) -> float:
    """As in training: cross-entropy, or for several classes the mean over all of them."""
    if several:
        wanted = torch.zeros_like(scores)
        wanted[places] = 1.0
        return float(torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted))
    return float(torch.nn.functional.cross_entropy(scores, torch.tensor(places[0])))


def _cut(ids: list[int], max_length: int) -> list[int]:
    """What is too long loses its end, but for the last token, which closes a text and is what a decoder is read at."""
    return ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]]
