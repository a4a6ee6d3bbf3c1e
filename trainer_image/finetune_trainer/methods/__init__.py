"""What is learned: one module per method, in one literal table; each is imported when a job asks for it.

A method module has three functions, in the order in which the recipe calls them:

    dataset(encoder, rows, resolved) -> datasets.Dataset     every row as the trainer reads it
    trainer(lesson) -> transformers.Trainer                  ready to train, one optimiser step per ``training.steps``
    score(model, exam, numerics) -> list[RowScore]           a model's outcome on every held-out row; asked of the base first
"""

from importlib import import_module
from typing import Any, Protocol

from finetune_api.artifacts import Resolved
from finetune_stage.scores import RowScore
from finetune_trainer.encode import Encoder, Fields
from finetune_trainer.methods.lesson import Lesson

MODULES = {
    name: f"finetune_trainer.methods.{name}"
    for name in ("sft", "cpt", "dpo", "kto", "orpo", "reward", "ppo", "grpo", "classification")
}


class Method(Protocol):
    """A module of this package."""

    def dataset(self, encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
        """The training rows, tokenised. Raises Failure where none can be learned from."""

    def trainer(self, lesson: Lesson) -> Any:
        """A trainer of transformers whose class stops before a step whose loss is no number (:class:`Watched`); it brings a measure of
        the validation rows where the method's loss is not the evaluation's."""

    def score(self, model: Any, exam: Any, numerics: Any) -> list[RowScore]:
        """A model's outcome on every held-out row of a :class:`finetune_trainer.evaluate.Exam`."""


def load(name: str) -> Method:
    """The module of a method."""
    return import_module(MODULES[name])
