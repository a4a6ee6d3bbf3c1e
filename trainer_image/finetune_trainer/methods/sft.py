"""Supervised fine-tuning on answers."""

from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from finetune_api.artifacts import Resolved
from finetune_trainer.encode import IGNORED, Encoder, Fields, encode_training
from finetune_trainer.evaluate import score
from finetune_trainer.methods.lesson import Lesson, Watched

__all__ = ["dataset", "score", "trainer"]


class SupervisedTrainer(Watched, SFTTrainer):  # type: ignore[misc]
    """TRL's, watched; it smooths labels in the forward pass that learns, where TRL would make a second one."""

    label_smoothing: float = 0.0
    unpacked: Any
    """The dataset before TRL has packed it."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean over the learned tokens of the whole batch, accumulated ones too."""
        if not self.label_smoothing:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        output = model(**inputs, use_cache=False)
        logits = output.logits[:, -labels.shape[1] : -1].float()  # virtual tokens have logits too
        target = labels[:, 1:].flatten()
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target, reduction="sum", label_smoothing=self.label_smoothing, ignore_index=IGNORED
        )
        count = (target != IGNORED).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = total / count.to(total.device).clamp(min=1)
        if num_items_in_batch is not None:  # those of all processes, whose gradients are averaged
            loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss


def dataset(encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
    """Columns input_ids, labels and row, one row an answer."""
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
    made = SupervisedTrainer(
        model=lesson.model, args=settings, train_dataset=lesson.dataset, processing_class=lesson.tokenizer
    )
    made.label_smoothing, made.unpacked = training.label_smoothing, lesson.dataset
    return made
