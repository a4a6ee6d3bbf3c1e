"""Supervised fine-tuning on answers."""

from itertools import islice
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from finetune_api.artifacts import Resolved
from finetune_trainer.encode import IGNORED, ROWS_AT_A_TIME, Encoder, Fields, encode_training
from finetune_trainer.evaluate import score
from finetune_trainer.methods.lesson import Lesson, Watched

__all__ = ["dataset", "score", "trainer"]

TOKENS = pa.list_(pa.int32())
COLUMNS = pa.schema([("input_ids", TOKENS), ("labels", TOKENS), ("row", pa.int64())])
"""Of what is learned from: a tenth of what the same numbers take as Python's."""


class SupervisedTrainer(Watched, SFTTrainer):  # type: ignore[misc]
    """TRL's, watched; with the same loss in another way where TRL's costs too much time.

    TRL smooths labels in a second forward pass; and it saves a GPU the memory of the logits by a loss in chunks, with the entropy and
    accuracy of every token, which is 40 % of a step on a CPU.
    """

    label_smoothing: float = 0.0
    unpacked: Any
    """The dataset before TRL has packed it."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean over the learned tokens of the whole batch, accumulated ones too."""
        if not self.label_smoothing and not self.args.use_cpu:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        # The loss by which a mixture keeps its experts busy is the mean of a micro-batch.
        routed = {"output_router_logits": True} if self.aux_loss_enabled else {}
        output = model(**inputs, **routed, use_cache=False)
        logits = output.logits[:, -labels.shape[1] : -1].float()  # virtual tokens have logits too
        target = labels[:, 1:].flatten()
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target, reduction="sum", label_smoothing=self.label_smoothing, ignore_index=IGNORED
        )
        count = (target != IGNORED).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = total / count.to(total.device).clamp(min=1)
        if num_items_in_batch is not None:  # those of all processes, whose gradients are averaged
            loss = loss * self.accelerator.num_processes
        if self.aux_loss_enabled:
            micro_batches = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * output.aux_loss / micro_batches
        return (loss, output) if return_outputs else loss


def dataset(encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
    """Columns input_ids, labels and row, one row an answer."""
    training = resolved.training
    examples = encode_training(encoder, rows, training.max_length, packed=training.packing)
    groups = iter(lambda: [each._asdict() for each in islice(examples, ROWS_AT_A_TIME)], [])
    return Dataset(pa.Table.from_batches((pa.RecordBatch.from_pylist(group, COLUMNS) for group in groups), COLUMNS))


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
