"""Training: a method's trainer with our checkpoints and ends.

Every checkpoint lies on the boundary of an optimiser step, so that an interrupted run takes the same course as an
uninterrupted one. Called by :mod:`finetune_trainer.recipe`.
"""

import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from peft.helpers import disable_input_dtype_casting
from transformers import PrinterCallback, TrainerCallback, TrainerState

from finetune_api.artifacts import Resolved, ResolvedTraining
from finetune_trainer.boundary import Boundary, Stopped
from finetune_trainer.checkpoints import Checkpoints
from finetune_trainer.guard import Guard, skipped_batch
from finetune_trainer.interruption import Interruption
from finetune_trainer.machine import Numerics, naming_memory, note_peak, peak_of
from finetune_trainer.optimizer import OPTIMIZERS, lora_plus
from finetune_trainer.progress import Course, Progress
from finetune_trainer.sharding import OPTIMIZER, is_spread
from finetune_trainer.validation import Validation
from finetune_trainer.world import World

LOG_LINES = 100
"""Lines of metrics.jsonl a run of any length writes, about."""
SCHEDULERS = {
    "Cosine": "cosine",
    "Linear": "linear",
    "Constant": "constant_with_warmup",
    "WSD": "warmup_stable_decay",
}
STATE_FILE = "trainer_state.json"
FIGURES = {"epoch": "epoch", "loss": "loss", "learning_rate": "learningRate", "grad_norm": "gradNorm"}
SAMPLING_FIGURES = {
    "reward": "reward",
    "reward_std": "rewardDeviation",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "answerTokens",
    "completions/clipped_ratio": "unendedShare",
    "clip_ratio/region_mean": "clippedShare",
}
"""What methods that sample answers log beside: their names, and ours."""


class Batch(NamedTuple):
    """A batch as it fits into memory: the product is the batch the job asks for."""

    rows: int
    accumulation: int


@dataclass(frozen=True)
class Companions:
    """Who is told of the steps, keeps the checkpoints, may ask to stop, and learns too."""

    progress: Progress
    checkpoints: Checkpoints
    interruption: Interruption
    world: World
    validation: Validation | None = None
    """Where its loss is measured while training."""

    def is_over(self, state: Any) -> bool:
        """Whether nothing is left to train; ``state`` is the TrainerState."""
        ended: bool = state.global_step >= state.max_steps
        return ended or (self.validation is not None and self.validation.is_over(state))

    def is_stop_wanted(self) -> bool:
        """By any of the processes: all of them stop before the same micro-batch."""
        self.interruption.requested = self.world.any(self.interruption.requested)
        return self.interruption.requested

    def fetch_newest(self, folder: Path, *, is_spread: bool) -> int | None:
        """The checkpoint to go on from, which the first process chooses; its step, or None.

        ``is_spread``: weights and moments come from the first process, and the others need only what is not a tensor.
        """
        world = self.world
        step: int | None = world.from_first(self.checkpoints.fetch_newest(folder) if world.is_first else None)
        if step is not None:
            if not world.is_first:
                self.checkpoints.fetch(step, folder, _is_small if is_spread else lambda path: True)
            world.check_checkpoint(folder)
            self.progress.resume(step)
        return step


def _is_small(path: str) -> bool:
    """Of a checkpoint: the course, the schedule and the random numbers."""
    return not path.endswith(".safetensors") and path != OPTIMIZER


def train(trainer: Any, companions: Companions, resolved: Resolved) -> Course:
    """Train to the last step, from the newest checkpoint where there is one; the weights of its model change."""
    settings = trainer.args
    steps = _Steps(companions)
    trainer.add_callback(steps)
    make_ready(trainer, resolved, companions.is_stop_wanted, companions.world)
    resumed = Path(settings.output_dir) / "resumed"
    step = companions.fetch_newest(resumed, is_spread=is_spread(trainer.model))
    if step is not None:
        state = TrainerState.load_from_json(str(resumed / STATE_FILE))
        if companions.is_over(state):  # only the evaluation or the publishing is left
            trainer._load_from_checkpoint(str(resumed))
            return _ended(trainer, companions, state)
    with companions.interruption.deferred():
        try:
            take_steps(trainer, resolved, resumed if step is not None else None)
        except Stopped:
            steps.give_up(trainer)
        companions.checkpoints.settle()
    shutil.rmtree(resumed, ignore_errors=True)
    companions.is_stop_wanted()  # all processes go on to the evaluation, or none
    companions.interruption.check(
        f"at step {trainer.state.global_step} of {settings.max_steps}; the next attempt goes on from there"
    )
    return _ended(trainer, companions, trainer.state)


def make_ready(trainer: Any, resolved: Resolved, is_stop_wanted: Callable[[], bool], world: World) -> None:
    """What every method's trainer needs before its first step."""
    trainer.is_stop_wanted, trainer.world = is_stop_wanted, world
    trainer.guard = Guard(resolved)
    trainer.remove_callback(PrinterCallback)  # Progress prints
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL turns QLoRA's into bfloat16, which swallows small updates
            parameter.data = parameter.data.float()
    if resolved.adapter.type == "LoraPlus":
        trainer.optimizer = lora_plus(trainer, resolved.adapter.learning_rate_ratio)


def take_steps(trainer: Any, resolved: Resolved, resumed: Path | None = None) -> None:
    """Train, from a checkpoint where there is one. Raises Failure where memory does not suffice or a loss is no number."""
    rows = trainer.args.per_device_train_batch_size
    where = f"training with a micro batch of {rows} rows of up to {resolved.training.max_length} tokens"
    with naming_memory(where), _plain_inputs(trainer):
        trainer.train(resume_from_checkpoint=str(resumed) if resumed is not None else None)


def _ended(trainer: Any, companions: Companions, state: TrainerState) -> Course:
    """What it came to, with the weights in the model that are to be published."""
    losses = [line["loss"] for line in state.log_history if "loss" in line]
    steps, tokens, loss = state.global_step, state.num_input_tokens_seen, losses[-1] if losses else None
    course = Course(steps, tokens, loss, peak_of(state), skipped_batch=skipped_batch(state))
    if companions.validation is None:
        return course
    outcome = companions.validation.outcome(state)
    if companions.world.is_first:
        print(outcome.message, flush=True)
    if outcome.published_step != state.global_step:
        _load_best(trainer, companions, outcome.published_step)
    return course._replace(validation=outcome)


def _load_best(trainer: Any, companions: Companions, step: int) -> None:
    """Into the model of the first process, which publishes it; where it is spread, into everyone's share."""
    best, is_first = Path(trainer.args.output_dir) / "best", companions.world.is_first
    if is_first:
        companions.checkpoints.fetch(step, best)
    if is_first or is_spread(trainer.model):
        trainer._load_from_checkpoint(str(best))
    shutil.rmtree(best, ignore_errors=not is_first)


def _plain_inputs(trainer: Any) -> AbstractContextManager[None]:
    """Under autocast PEFT's float32 copy of every layer's input is bfloat16 again at once: left out, it saves a tenth of
    time and memory. DoRA computes its norms in that type and keeps it; layers of other adapters than LoRA's kin make no copy that
    could be left out."""
    configs = getattr(trainer.model, "peft_config", {}).values()
    makes_copies = all(isinstance(config, LoraConfig) and not config.use_dora for config in configs)
    plain: AbstractContextManager[None] = disable_input_dtype_casting(
        trainer.model, active=trainer.args.bf16 and makes_copies
    )
    return plain


def arguments(training: ResolvedTraining, numerics: Numerics, divisor: int, work: Path, world: World) -> dict[str, Any]:
    """Settings for every method's trainer; a divisor makes the micro batch smaller and the accumulation longer."""
    batch = split_batch(training.batch_size // world.size, training.micro_batch_size, divisor)
    return {
        "output_dir": str(work / "run"),
        "max_steps": training.steps,
        "per_device_train_batch_size": batch.rows,
        "gradient_accumulation_steps": batch.accumulation,
        "learning_rate": training.learning_rate,
        "optim": OPTIMIZERS[training.optimizer],
        "lr_scheduler_type": SCHEDULERS[training.scheduler],
        "lr_scheduler_kwargs": _decay(training),
        "warmup_steps": math.ceil(training.warmup_ratio * training.steps),
        "weight_decay": training.weight_decay,
        "adam_beta2": training.adam_beta2,
        "max_grad_norm": training.max_grad_norm,
        "neftune_noise_alpha": training.neftune_alpha or None,
        "gradient_checkpointing": training.gradient_checkpointing,
        "seed": training.seed,
        "data_seed": training.seed,
        "bf16": numerics.bf16,
        "use_cpu": numerics.device == "cpu",
        # Steps decides when to log, save and stop, so that all three lie on the same boundary.
        "logging_strategy": "no",
        "logging_steps": max(1, training.steps // LOG_LINES),
        "save_strategy": "no",
        "save_steps": training.checkpoint_every_steps,
        "eval_strategy": "no",
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "dataloader_pin_memory": numerics.device == "cuda",
        "ddp_find_unused_parameters": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _decay(training: ResolvedTraining) -> dict[str, Any]:
    """How WSD ends: Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations"."""
    if training.scheduler != "WSD":
        return {}
    left = training.steps - math.ceil(training.warmup_ratio * training.steps)
    return {"num_decay_steps": min(left, math.ceil(training.decay_ratio * training.steps)), "decay_type": "1-sqrt"}


def split_batch(batch_size: int, micro_batch_size: int, divisor: int) -> Batch:
    """The largest micro batch of at most ``micro_batch_size / divisor`` rows that divides the batch."""
    most = max(1, min(micro_batch_size, batch_size) // divisor)
    rows = next(rows for rows in range(most, 0, -1) if batch_size % rows == 0)
    return Batch(rows, batch_size // rows)


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Decides at the end of a step what happens, and passes it on."""

    def __init__(self, companions: Companions) -> None:
        self._to = companions
        self._unsaved: Boundary | None = None

    def give_up(self, trainer: Any) -> None:
        """Save the last whole step, where it is not saved yet: the one under way has changed no weights."""
        if self._unsaved is not None:
            self._unsaved.restore(trainer.state)
            trainer._save_checkpoint(trainer.model, trial=None)
            self.on_save(trainer.args, trainer.state, trainer.control)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the base's evaluation took memory of its own
            torch.cuda.reset_peak_memory_stats()
        if not self._to.world.is_first:  # each drops out other units; a checkpoint brings its own random numbers
            torch.manual_seed(args.seed + self._to.world.rank)
        self._to.progress.begin(state.global_step, state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        step, validation = state.global_step, self._to.validation
        self._unsaved = Boundary.here(state)
        if validation is not None:
            validation.step_ended(state, model)
        end = self._to.is_over(state)
        is_best = validation is not None and validation.best_to_keep(state) == step
        is_measured = validation is not None and validation.loss_at(state) is not None
        control.should_training_stop = end
        control.should_save = end or is_best or step % args.save_steps == 0
        if control.should_save:
            note_peak(state)
        # With every checkpoint, so that no loss is averaged over two attempts.
        control.should_log = control.should_save or is_measured or step % args.logging_steps == 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:  # the summary at the end of a training
            return
        figures = {ours: float(logs[theirs]) for theirs, ours in FIGURES.items()}
        figures |= {
            ours: float(logs[theirs]) for theirs, ours in SAMPLING_FIGURES.items() if logs.get(theirs) is not None
        }
        measured = self._to.validation.loss_at(state) if self._to.validation else None
        if measured is not None:
            figures["validationLoss"] = measured
        self._to.progress.logged(state.global_step, state.num_input_tokens_seen, figures)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self._to.world.is_first:
            best = self._to.validation.best_to_keep(state) if self._to.validation else None
            if best is not None:
                self._to.checkpoints.settle()  # the upload before still counts on the best before
                self._to.checkpoints.keep(best)
            self._to.checkpoints.commit(folder, state.global_step, self._to.progress.metrics())
        else:
            shutil.rmtree(folder)
        self._unsaved = None
