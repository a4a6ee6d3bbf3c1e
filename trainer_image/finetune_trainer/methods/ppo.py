"""Proximal policy optimisation on answers the model samples itself, with a value head of its own.

One training step is one batch of prompts: answers are sampled and judged, and learned from in ``epochs`` updates, the last of which
is the trainer's own optimiser step. So a checkpoint lies between two batches, where there are no answers to keep: weights, value
head, optimiser and random numbers make a resumed run sample what the uninterrupted one does.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, Trainer, TrainingArguments
from trl.trainer.utils import disable_dropout_in_model

from finetune_trainer.answering import UNCHANGED, until_stop
from finetune_trainer.batching import padded
from finetune_trainer.boundary import Stopped
from finetune_trainer.evaluate import at_rest, score
from finetune_trainer.guard import non_finite
from finetune_trainer.methods.lesson import Lesson, Watched
from finetune_trainer.methods.prompts import dataset
from finetune_trainer.proximal import (
    Sampled,
    advantages,
    masked_mean,
    policy_loss,
    token_rewards,
    value_loss,
    whitened,
)
from finetune_trainer.rewards import Answer, answer_text

__all__ = ["dataset", "score", "trainer"]

VALUE_HEAD = "value_head.safetensors"
"""Beside a checkpoint's weights; never in what is published."""
VALUE_STEP = 0.1
"""How far the value head's first updates move a value, about: it is new, and learns at a rate of its own on the same schedule."""


class Reference:
    """The model before training: its base where a fresh adapter learns, else the weights it began with, which are kept for that."""

    def __init__(self, model: Any, *, is_base: bool) -> None:
        self._model = model
        learning = [] if is_base else [each for each in model.parameters() if each.requires_grad]
        self._kept = [(parameter, parameter.detach().clone()) for parameter in learning]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model is it meanwhile; not to be entered within autocast, which remembers weights."""
        if not self._kept:
            with self._model.disable_adapter():
                yield
            return
        learned = [parameter.data for parameter, _ in self._kept]
        try:
            for parameter, kept in self._kept:
                parameter.data = kept
            yield
        finally:
            for (parameter, _), data in zip(self._kept, learned, strict=True):
                parameter.data = data


class Updates(Trainer):  # type: ignore[misc]
    """Transformers', whose step is a batch of prompts. The value head is no part of the model, and so is not published with it."""

    is_stop_wanted: Callable[[], bool]

    def __init__(self, lesson: Lesson, settings: Any, arguments: TrainingArguments, rows: int) -> None:
        super().__init__(model=lesson.model, args=arguments, train_dataset=lesson.dataset, data_collator=list)
        adapter = lesson.resolved.adapter
        self._lesson, self._settings, self._rows = lesson, settings, rows
        self._reference = Reference(lesson.model, is_base=adapter.type != "Full" and adapter.initial is None)
        self._figures: dict[str, list[float]] = defaultdict(list)
        hidden = lesson.model.config.get_text_config().hidden_size
        self._value_head = torch.nn.Linear(hidden, 1, device=self.args.device)
        for parameter in self._value_head.parameters():
            torch.nn.init.zeros_(parameter)  # it expects nothing, and takes no random numbers from the sampling

    def get_train_dataloader(self) -> Any:
        """Whole batches of prompts; micro batches are cut from their answers."""
        return self._get_dataloader(
            self.train_dataset, "Training", self._rows, self._get_train_sampler, is_training=True
        )

    def create_optimizer(self, model: Any = None) -> Any:
        """The model's, which the value head joins."""
        optimizer = super().create_optimizer(model)
        head = list(self._value_head.parameters())
        if not any(head[0] is each for group in optimizer.param_groups for each in group["params"]):
            rate = VALUE_STEP / self._value_head.in_features
            optimizer.add_param_group({"params": head, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def training_step(self, model: Any, inputs: list[dict[str, Any]], num_items_in_batch: Any = None) -> Tensor:
        """Sample, judge, and learn; the last update's gradients are left to the Trainer, which cuts and applies them."""
        batch = self._sampled(inputs)
        if self.is_stop_wanted():  # no weight has changed yet
            raise Stopped
        model.train()
        self.optimizer.zero_grad()
        losses = [self._backward(model, batch)]
        for _ in range(self._settings.epochs - 1):
            norm = self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
            if not torch.isfinite(norm):
                raise non_finite("gradient norm", float(norm), self.state.global_step + 1)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(self._backward(model, batch))
        return torch.stack(losses).mean()

    def _sampled(self, inputs: list[dict[str, Any]]) -> Sampled:
        """Answers to the prompts, and what is learned from them."""
        settings, prompts = self._settings, [row["prompt"] for row in inputs]
        with at_rest(self.model):
            answers = [each for part in self._parts(len(prompts)) for each in self._write(prompts[part])]
            ids, mask, answered = laid_out(prompts, answers, self.args.device)
            parts = self._parts(len(prompts))
            found = [self._predict(self.model, ids[part], mask[part]) for part in parts]
            with self._reference.in_place():
                before = torch.cat([self._predict(self.model, ids[part], mask[part])[0] for part in parts])
        log_probs, values = (torch.cat(each) for each in zip(*found, strict=True))
        earned, divergence = self._judged(inputs, answers), log_probs - before
        rewards = token_rewards(earned, divergence, answered, settings.kl_coefficient)
        gained = advantages(rewards, values, answered, settings.gamma, settings.gae_lambda)
        self._note(earned, answers, masked_mean(divergence, answered))
        self.state.num_input_tokens_seen += int(mask.sum())
        return Sampled(ids, mask, answered, log_probs, values, whitened(gained, answered), gained + values)

    def _parts(self, rows: int) -> list[slice]:
        """Micro batches."""
        size = self.args.per_device_train_batch_size
        return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]

    def _write(self, prompts: list[list[int]]) -> list[list[int]]:
        """An answer to each prompt, its end token included where there is one."""
        stops = self._lesson.stop_tokens
        ids, mask = padded(prompts, stops[0], self.args.device, left=True)
        config = GenerationConfig(
            max_new_tokens=self._settings.max_new_tokens,
            do_sample=True,
            temperature=self._settings.temperature,
            top_p=1.0,
            **UNCHANGED,  # the base's own settings would make it another policy
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
        with self.compute_loss_context_manager():
            output = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return [until_stop(answer, set(stops)) for answer in output[:, ids.shape[1] :].tolist()]

    def _predict(self, model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of every next token, and the value before it; each (B, T) in float32."""
        with self.compute_loss_context_manager():
            output = model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        logits = output.logits[:, :-1].float() / self._settings.temperature
        log_probs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        return log_probs, self._value_head(output.hidden_states[-1][:, :-1].float()).squeeze(-1)

    def _judged(self, inputs: list[dict[str, Any]], answers: list[list[int]]) -> Tensor:
        judge, stops = self._lesson.judge, self._lesson.stop_tokens
        assert judge is not None
        asked = [
            Answer(answer_text(self._lesson.tokenizer, ids, stops), row["reference"], row["prompt"], ids)
            for row, ids in zip(inputs, answers, strict=True)
        ]
        return torch.tensor(judge(asked), device=self.args.device)

    def _backward(self, model: Any, batch: Sampled) -> Tensor:
        """Gradients of one update, micro batch by micro batch, those of the value head cut; its loss."""
        settings, tokens = self._settings, batch.answered.sum()
        total, cut = torch.zeros((), device=self.args.device), torch.zeros((), device=self.args.device)
        for part in self._parts(len(batch.ids)):
            piece = batch.rows(part)
            log_probs, values = self._predict(model, piece.ids, piece.mask)
            gain, clipped = policy_loss(log_probs, piece, settings.clip_range)
            loss = (gain + settings.value_coefficient * value_loss(values, piece, settings.clip_range)) / tokens
            self.accelerator.backward(loss)
            total, cut = total + loss.detach(), cut + clipped
        if not torch.isfinite(total):
            raise non_finite("loss", float(total), self.state.global_step + 1)
        torch.nn.utils.clip_grad_norm_(self._value_head.parameters(), self.args.max_grad_norm)
        self._figures["clip_ratio/region_mean"].append(float(cut / tokens))
        return total

    def _note(self, earned: Tensor, answers: list[list[int]], divergence: Tensor) -> None:
        stops = set(self._lesson.stop_tokens)
        figures = {
            "reward": float(earned.mean()),
            "reward_std": float(earned.std(correction=0)),
            "kl": float(divergence),
            "completions/mean_length": sum(map(len, answers)) / len(answers),
            "completions/clipped_ratio": sum(answer[-1] not in stops for answer in answers) / len(answers),
        }
        for name, value in figures.items():
            self._figures[name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the means since the last time."""
        super().log(logs | {name: sum(each) / len(each) for name, each in self._figures.items()}, start_time)
        self._figures.clear()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        weights = {name: each.detach().cpu() for name, each in self._value_head.state_dict().items()}
        save_file(weights, Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / VALUE_HEAD)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._value_head.load_state_dict(load_file(Path(resume_from_checkpoint) / VALUE_HEAD))


class PolicyTrainer(Watched, Updates):
    """Watched."""


def trainer(lesson: Lesson) -> PolicyTrainer:
    """One step: batchSize prompts, one answer to each."""
    settings = lesson.resolved.method_settings.ppo
    assert settings is not None
    disable_dropout_in_model(lesson.model)  # what is learned from is what was sampled
    if lesson.arguments["gradient_checkpointing"] and lesson.resolved.adapter.type != "Full":
        lesson.model.enable_input_require_grads()  # else nothing behind a frozen embedding learns
    rows = lesson.arguments["per_device_train_batch_size"] * lesson.arguments["gradient_accumulation_steps"]
    changes = {
        "gradient_accumulation_steps": 1,
        "include_num_input_tokens_seen": "no",  # counted here
        "remove_unused_columns": False,
        "dataloader_drop_last": True,  # prompts that do not fill a batch wait for another epoch
    }
    return PolicyTrainer(lesson, settings, TrainingArguments(**lesson.arguments | changes), rows)


def laid_out(prompts: list[list[int]], answers: list[list[int]], device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of prompts and answers (B, T + 1), the mask of what is no padding, and which predictions (B, T) are of answers."""
    ids, mask = padded([one + other for one, other in zip(prompts, answers, strict=True)], 0, device, left=False)
    answered = torch.zeros(len(ids), ids.shape[1] - 1, dtype=torch.bool)
    for row, prompt, answer in zip(answered, prompts, answers, strict=True):
        row[len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
    return ids, mask, answered.to(device)
