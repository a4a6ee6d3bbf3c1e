"""What every method's trainer is built from, and how each of them ends."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel

from finetune_api.artifacts import Resolved
from finetune_stage.rows import Row
from finetune_trainer import sharding
from finetune_trainer.boundary import Stopped
from finetune_trainer.encode import Encoder
from finetune_trainer.evaluate import at_rest
from finetune_trainer.guard import Guard
from finetune_trainer.rewards import Judge
from finetune_trainer.validation import Measure, Sums
from finetune_trainer.world import World

SCHEDULER = "scheduler.pt"


class HeldOut(NamedTuple):
    """Validation rows whose loss is measured while training, by these processes together."""

    encoder: Encoder
    rows: list[Row]
    world: World


@dataclass(frozen=True)
class Lesson:
    """A model, what it learns from, and how."""

    model: Any
    tokenizer: Any
    dataset: Any
    """datasets.Dataset of the method's own shape."""
    arguments: dict[str, Any]
    """Settings of transformers.TrainingArguments that hold for every method."""
    resolved: Resolved
    stop_tokens: list[int]
    """Tokens that end an answer."""
    judge: Judge | None
    """What says how good an answer is, for methods that sample answers."""
    held_out: HeldOut | None = None
    """Where the job asks for their loss."""


class Watched:
    """Mixed into a Trainer, as its first base: stops before a micro-batch where that is wanted, and before a step whose loss or
    gradient is no number, and leaves the model card to the publishing."""

    state: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    is_stop_wanted: Callable[[], bool]
    """Asked before every micro-batch; set by :mod:`finetune_trainer.train`."""
    world: World
    """Set with it."""
    guard: Guard
    """Set with it."""
    own_loss: Measure | None = None
    """On the validation rows, of a method whose loss is not the evaluation's."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        if self.is_stop_wanted():
            raise Stopped
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        self.guard.saw(self, loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Asked for just before the optimiser's step."""
        return self.guard.checked(self, super()._get_grad_norm(model, grad_norm))  # type: ignore[misc]  # the Trainer's

    def _save_rng_state(self, output_dir: str) -> None:
        """Of all processes into the first one's checkpoint."""
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        self.world.gather_random_numbers(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Its weights."""
        if sharding.is_spread(self.model):
            sharding.load_weights(self.model, Path(resume_from_checkpoint), self.world)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Of a model that is spread, whole."""
        if not sharding.is_spread(self.model):
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        sharding.save_optimizer(self.model, self.optimizer, Path(output_dir), self.world)
        if self.world.is_first:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As it was saved."""
        if checkpoint is None or not sharding.is_spread(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            return
        sharding.load_optimizer(self.model, self.optimizer, Path(checkpoint), self.world)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: not at every checkpoint."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Without PEFT's card, which it renders with every checkpoint: the publishing writes ours."""
        if isinstance(self.model, PeftModel):
            self.model.create_or_update_model_card = self.create_model_card
        super()._save(output_dir, state_dict)  # type: ignore[misc]

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers walks all parameters for it in every micro-batch, and nobody reads the sum."""
        return 0


class MeanOverRows(Watched):
    """Mixed into a Trainer whose loss is the mean of a micro-batch's rows: every row of a step counts alike.

    Transformers divides each micro-batch's mean by their number, so that the few rows of an epoch's last one would weigh more, by how
    much depending on how the batch was divided. Several processes have equal micro-batches: accelerate fills up the last ones.
    """

    current_gradient_accumulation_steps: float
    """What the loss of a micro-batch is divided by; nothing else reads it."""
    _rows: int
    """Of the step's micro-batches."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of a step."""
        found = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]  # the Trainer's
        self._rows = sum(len(inputs["input_ids"]) for inputs in found[0])
        return found

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        self.current_gradient_accumulation_steps = self._rows / len(inputs["input_ids"])
        return super().training_step(model, inputs, num_items_in_batch)


def own_loss(trainer: Any, rows: list[dict[str, Any]], size: int, world: World) -> Measure:
    """The trainer's own loss, a mean over rows, without dropout: of this process's share of the rows, ``size`` at a time.

    All processes compute equally often, as trainers, and models that are spread, talk to each other within; where one has no row left
    it computes one in vain.
    """
    own, most = rows[world.rank :: world.size], len(rows[:: world.size])

    def measure(model: Any) -> Sums:
        found = Sums(0.0, 0.0)
        with at_rest(model), trainer.compute_loss_context_manager():
            for start in range(0, most, size):
                batch = own[start : start + size]
                inputs = trainer._prepare_inputs(trainer.data_collator(batch or rows[:1]))
                loss = trainer.compute_loss(model, inputs).item()
                found = Sums(found.loss + loss * len(batch), found.weight + len(batch))
        return found

    return measure
