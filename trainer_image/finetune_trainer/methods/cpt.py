"""Continued pretraining on raw text."""

from finetune_trainer.evaluate import score
from finetune_trainer.methods.lesson import Lesson
from finetune_trainer.methods.sft import SupervisedTrainer, dataset, supervised

__all__ = ["dataset", "score", "trainer"]


def trainer(lesson: Lesson) -> SupervisedTrainer:
    """Packing joins the texts and cuts them anew, so that no token is lost."""
    return supervised(lesson, packing_strategy="wrapped")
