"""Odds-ratio preference optimisation (Hong and others, 2024): one model learns the chosen answer and to prefer it, without a reference.

TRL's trainer is an experiment that tokenises texts itself, conversations too; the loss is three lines.
"""

from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from trl.trainer.dpo_trainer import DataCollatorForPreference

from finetune_api.v1alpha1.methods import OrpoMethod
from finetune_trainer.encode import IGNORED
from finetune_trainer.methods.dpo import dataset, held_out, score
from finetune_trainer.methods.lesson import Lesson, MeanOverRows, own_loss

__all__ = ["dataset", "score", "trainer"]


class OddsRatioTrainer(MeanOverRows, Trainer):  # type: ignore[misc]
    """Watched; a batch is the chosen sides and then the rejected ones."""

    beta: float
    router_coefficient: float
    """Of the loss by which a mixture keeps its experts busy; 0 for other models."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Negative log-likelihood of the chosen answers, and beta times that of their being the likelier ones."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
        routed = {"output_router_logits": True} if self.router_coefficient else {}
        tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        output = model(**tokens, **routed, use_cache=False)
        logits = output.logits[:, -labels.shape[1] : -1].float()  # virtual tokens have logits too
        target = labels[:, 1:]
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), target, ignore_index=IGNORED, reduction="none"
        )
        chosen, rejected = (-losses.sum(1) / (target != IGNORED).sum(1).clamp(min=1)).chunk(2)
        loss = (self.beta * odds_ratio_loss(chosen, rejected) - chosen).mean()
        if self.router_coefficient:
            loss = loss + self.router_coefficient * output.aux_loss
        return (loss, output) if return_outputs else loss


def odds_ratio_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Of the answers' mean log-probabilities per token, -log sigmoid(log(odds of chosen / odds of rejected))."""
    odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
    return -torch.nn.functional.logsigmoid(odds)


def trainer(lesson: Lesson) -> OddsRatioTrainer:
    """Transformers' trainer with this loss."""
    stated = lesson.resolved.method_settings.orpo or OrpoMethod()
    if lesson.tokenizer.pad_token is None:
        lesson.tokenizer.pad_token = lesson.tokenizer.eos_token
    if lesson.arguments["gradient_checkpointing"]:
        lesson.model.enable_input_require_grads()  # else nothing behind a frozen embedding learns
    made = OddsRatioTrainer(
        model=lesson.model,
        args=TrainingArguments(**lesson.arguments, remove_unused_columns=False),
        data_collator=DataCollatorForPreference(pad_token_id=lesson.tokenizer.pad_token_id),
        train_dataset=lesson.dataset,
        processing_class=lesson.tokenizer,
    )
    made.model_accepts_loss_kwargs = False  # a mean over pairs, to be divided by the accumulation
    if lesson.held_out:
        rows = held_out(lesson.held_out, lesson.resolved.training.max_length).to_list()
        made.own_loss = own_loss(made, rows, lesson.arguments["per_device_train_batch_size"], lesson.held_out.world)
    made.beta, made.router_coefficient = stated.beta or 0.1, _router_coefficient(lesson.model.config.get_text_config())
    return made


def _router_coefficient(config: Any) -> float:
    """As TRL's trainers take it: the architecture's own, where it has router logits."""
    return float(getattr(config, "router_aux_loss_coef", 0.0)) if hasattr(config, "output_router_logits") else 0.0


def _log_of_rest(log_probability: torch.Tensor) -> torch.Tensor:
    """log(1 - p), of log p; certainty is kept a little below one."""
    return torch.log1p(-torch.exp(log_probability.clamp(max=-1e-6)))
