"""Direct preference optimisation."""

import random
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from finetune_api.artifacts import Resolved
from finetune_api.v1alpha1.methods import DpoMethod
from finetune_trainer.adapter import reference
from finetune_trainer.encode import Encoder, Fields, Pair
from finetune_trainer.machine import Numerics
from finetune_trainer.methods.lesson import HeldOut, Lesson, MeanOverRows, own_loss
from finetune_trainer.origin import ROW
from finetune_trainer.preferences import encode_pairs, log_probabilities, score

__all__ = ["dataset", "held_out", "score", "trainer"]

LOSSES = {
    "Sigmoid": "sigmoid",
    "SigmoidNorm": "sigmoid_norm",
    "Hinge": "hinge",
    "Ipo": "ipo",
    "ExoPair": "exo_pair",
    "NcaPair": "nca_pair",
    "Robust": "robust",
    "BcoPair": "bco_pair",
    "SppoHard": "sppo_hard",
    "ApoZero": "apo_zero",
    "ApoDown": "apo_down",
    "DiscoPop": "discopop",
    "Sft": "sft",
}
"""TRL's names. Its aot losses are left out: they sort the pairs of a micro batch, so that its size would change what is learned.

It does a little with Sft too, the only one that is a mean over tokens: those of a micro batch's chosen answers, so that a long answer
counts more than a short one beside it; every micro batch counts by its rows.
"""


class PreferenceTrainer(MeanOverRows, DPOTrainer):  # type: ignore[misc]
    """TRL's, watched; the rows are tokenised already, and know the reference's log-probabilities."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def compute_loss(self, *args: Any, **options: Any) -> Any:
        """As TRL does; but of held-out rows it would keep figures that nobody reads."""
        loss = super().compute_loss(*args, **options)
        self._metrics["eval"].clear()
        return loss


def dataset(encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
    """Columns prompt_ids, chosen_ids, rejected_ids and row, one row a preference.

    Of a training that ends within its first epoch only as many as it learns from, by the seed: the reference answers each.
    """
    training = resolved.training
    pairs = encode_pairs(encoder, rows, training.max_length)
    if (learned := training.steps * training.batch_size) < len(pairs):
        pairs = random.Random(training.seed).sample(pairs, learned)
    return _table(pairs)


def held_out(rows: HeldOut, max_length: int) -> Any:
    """All validation rows, of the same shape; those of like length together."""
    fields = [row.fields for row in rows.rows]
    pairs = encode_pairs(rows.encoder, fields, max_length, what="validation preferences")
    return _table(sorted(pairs, key=lambda pair: len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))))


def _table(pairs: list[Pair]) -> Any:
    return Dataset.from_dict(
        {
            "prompt_ids": [pair.prompt for pair in pairs],
            "chosen_ids": [pair.chosen for pair in pairs],
            "rejected_ids": [pair.rejected for pair in pairs],
            ROW: [pair.row for pair in pairs],
        }
    )


def trainer(lesson: Lesson) -> PreferenceTrainer:
    """The reference's log-probabilities are taken once, before anything is learned: no second model is kept.

    A later attempt comes here with the weights the first one began with, so that it finds the same reference.
    """
    stated = lesson.resolved.method_settings.dpo or DpoMethod()
    losses = stated.loss_types or ["Sigmoid"]
    max_length = lesson.resolved.training.max_length
    with reference(lesson.model):
        rows = _with_reference(lesson, lesson.dataset)
        measured = _with_reference(lesson, held_out(lesson.held_out, max_length)) if lesson.held_out else None
    is_whole = lesson.resolved.adapter.type == "Full"
    made = PreferenceTrainer(
        model=lesson.model,
        args=DPOConfig(
            **lesson.arguments,
            max_length=max_length,
            loss_type=[LOSSES[name] for name in losses],
            loss_weights=stated.loss_weights,
            beta=stated.beta or 0.1,
            label_smoothing=stated.label_smoothing or 0.0,
            disable_dropout=False,  # the reference was taken without; the adapter's own is the user's choice
            # Elsewise TRL would load a second model. With it, it hashes all weights, which an adapter does not need.
            precompute_ref_log_probs=is_whole,
        ),
        train_dataset=rows,
        processing_class=lesson.tokenizer,
    )
    made.precompute_ref_logps = True
    if lesson.held_out and measured:
        # One by one where a batch's size would count, which is another after memory ran out.
        size = 1 if "Sft" in losses else lesson.arguments["per_device_train_batch_size"]
        made.own_loss = own_loss(made, measured.to_list(), size, lesson.held_out.world)
    if not is_whole:
        made.model.delete_adapter("ref")  # TRL's copy of what learns, of no use here
    return made


def _with_reference(lesson: Lesson, rows: Any) -> Any:
    numerics = Numerics("cpu" if lesson.arguments["use_cpu"] else "cuda", lesson.arguments["bf16"])  # as in training
    pairs = [Pair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]
    found = log_probabilities(lesson.model, pairs, numerics)
    rows = rows.add_column("ref_chosen_logps", [chosen for chosen, _ in found])
    return rows.add_column("ref_rejected_logps", [rejected for _, rejected in found])
