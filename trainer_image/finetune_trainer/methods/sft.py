"""Supervised fine-tuning on answers."""

from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from finetune_api.artifacts import Resolved
from finetune_trainer.encode import Encoder, Fields, encode_training
from finetune_trainer.evaluate import score
from finetune_trainer.methods.lesson import Lesson, Watched

__all__ = ["dataset", "score", "trainer"]


class SupervisedTrainer(Watched, SFTTrainer):  # type: ignore[misc]
    """TRL's, watched."""


def dataset(encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
    """Columns input_ids and labels, one row an answer."""
    training = resolved.training
    examples = encode_training(encoder, rows, training.max_length, packed=training.packing)
    return Dataset.from_list([example._asdict() for example in examples])


def trainer(lesson: Lesson) -> SupervisedTrainer:
    """Packing keeps rows whole: best fit decreasing."""
    return supervised(lesson, packing_strategy="bfd")


def supervised(lesson: Lesson, *, packing_strategy: str) -> SupervisedTrainer:
    """TRL's trainer with our settings."""
    training = lesson.resolved.training
    settings = SFTConfig(
        **lesson.arguments | {"include_num_input_tokens_seen": "all" if training.packing else "non_padding"},
        max_length=training.max_length,
        packing=training.packing,
        packing_strategy=packing_strategy,
    )
    return SupervisedTrainer(
        model=lesson.model, args=settings, train_dataset=lesson.dataset, processing_class=lesson.tokenizer
    )
