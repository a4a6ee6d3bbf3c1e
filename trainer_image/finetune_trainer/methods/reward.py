"""A reward model: a head on the language model learns to score the chosen answer above the rejected one (Bradley-Terry)."""

from typing import Any

import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from finetune_api.artifacts import Resolved
from finetune_api.v1alpha1.methods import RewardMethod
from finetune_stage.scores import RowScore
from finetune_trainer.encode import Encoder, Fields
from finetune_trainer.evaluate import Exam, at_rest, finite
from finetune_trainer.head import text_scores
from finetune_trainer.machine import Numerics
from finetune_trainer.methods.lesson import Lesson, MeanOverRows
from finetune_trainer.origin import ROW
from finetune_trainer.preferences import encode_pairs, whole_answers


class ScoringTrainer(MeanOverRows, RewardTrainer):  # type: ignore[misc]
    """TRL's, watched."""


def dataset(encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
    """Columns chosen_ids, rejected_ids and row, one row a preference; the score is read at the end, so that the beginning is cut."""
    pairs = encode_pairs(encoder, rows, resolved.training.max_length, whole_answers)
    return Dataset.from_dict(
        {
            "chosen_ids": [pair.prompt + pair.chosen for pair in pairs],
            "rejected_ids": [pair.prompt + pair.rejected for pair in pairs],
            ROW: [pair.row for pair in pairs],
        }
    )


def trainer(lesson: Lesson) -> ScoringTrainer:
    """TRL's trainer with our settings; it reads our rows as they are."""
    stated = lesson.resolved.method_settings.reward or RewardMethod()
    return ScoringTrainer(
        model=lesson.model,
        args=RewardConfig(
            **lesson.arguments,
            max_length=lesson.resolved.training.max_length,
            center_rewards_coefficient=stated.center_coefficient or None,
            disable_dropout=False,  # the adapter's own is the user's choice
        ),
        train_dataset=lesson.dataset,
        processing_class=lesson.tokenizer,
    )


def score(model: Any, exam: Exam, numerics: Numerics) -> list[RowScore]:
    """Every pair's outcome; before training the head is random, and its preferences chance."""
    pairs = [whole_answers(exam.encoder.pair(row.fields), exam.max_length) for row in exam.rows]
    texts = [pair.prompt + side for pair in pairs for side in (pair.chosen, pair.rejected)]
    with at_rest(model), numerics.autocast():
        rewards = iter([found.item() for found in text_scores(model, texts)])
    margins = [next(rewards) - next(rewards) for _ in pairs]
    losses = torch.nn.functional.softplus(-torch.tensor(margins, dtype=torch.float64)).tolist()
    return [
        RowScore(id=row.id, nll=finite(loss, row.id), tokens=1, margin=margin)
        for row, loss, margin in zip(exam.rows, losses, margins, strict=True)
    ]
