"""What is told while training: a line for people, metrics.jsonl for later, a report for the operator."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from finetune_api.artifacts import METRICS
from finetune_api.pods import Report
from finetune_api.v1alpha1.finetunejob_status import (
    Checkpoint,
    MemoryMeasured,
    TrainerStatus,
    ValidationStatus,
)
from finetune_stage.report import Reporter, metrics_of
from finetune_storage import Store
from finetune_trainer.checkpoints import now

Figures = dict[str, float]
MOST_CHECKPOINTS = 16
"""A report holds."""


class Course(NamedTuple):
    """What a training came to."""

    steps: int
    tokens: int
    loss: float | None
    """The last one logged."""
    peak_memory: MemoryMeasured | None = None
    """On a GPU."""
    validation: ValidationStatus | None = None
    """Where its loss was measured."""
    skipped_batch: str | None = None
    """Where one was left out."""


class Progress:
    """The course of one attempt. Steps are counted from the job's beginning.

    ``news`` is called, and must not take its time, when the training begins and when metrics.jsonl has a new line.
    """

    def __init__(
        self, store: Store, work: Path, steps: int, reporter: Reporter, news: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._file = work / METRICS
        self._steps = steps
        self._reporter = reporter
        self._news = news
        self._checkpoints: list[Checkpoint] = []
        self._resumed_from: int | None = None
        self._status = TrainerStatus()
        self._warning: str | None = None
        self._sending = threading.Lock()  # checkpoints are told of by the thread that uploads them
        self._began = self._last = (0, 0, time.monotonic())

    def resume(self, step: int) -> None:
        """Go on from a checkpoint: what was logged after it will be logged again."""
        self._resumed_from = step
        lines = self._store.get(METRICS).splitlines() if self._store.exists(METRICS) else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self._file.write_bytes(b"".join(line + b"\n" for line in kept))
        _say(f"resuming from the checkpoint of step {step} of {self._steps}")

    def begin(self, step: int, tokens: int) -> None:
        """The first step comes next; speed is measured from here."""
        self._file.touch()
        self._news()
        self._began = self._last = (step, tokens, time.monotonic())
        self._tell(step, None)

    def logged(self, step: int, tokens: int, figures: Figures) -> None:
        """A logged step; ``figures`` are epoch, loss, learningRate and gradNorm."""
        _, earlier_tokens, earlier = self._last
        self._last = (step, tokens, time.monotonic())
        speed = (tokens - earlier_tokens) / max(1e-9, self._last[2] - earlier)
        line = {"step": step, **figures, "tokens": tokens, "tokensPerSecond": round(speed, 1), "time": now()}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._news()
        left = self._seconds_left(step)
        _say(
            f"step {step}/{self._steps} ({100 * step // self._steps} %)  loss {figures['loss']:.4f}"
            f"  lr {figures['learningRate']:.2e}  {speed:,.0f} tokens/s  {duration(left)} left"
        )
        shown = {**figures, "tokens": tokens, "tokensPerSecond": round(speed, 1)}
        self._tell(step, left, shown)

    def metrics(self) -> bytes:
        """metrics.jsonl as it stands."""
        return self._file.read_bytes()

    def committed(self, kept: list[Checkpoint]) -> None:
        """A checkpoint is stored, the last of those kept."""
        _say(f"checkpoint of step {kept[-1].step} committed")
        self._checkpoints, self._warning = kept[-MOST_CHECKPOINTS:], None
        self._send()

    def overdue(self, sentence: str) -> None:
        """A checkpoint is not stored for long."""
        _say(sentence)
        self._warning = sentence
        self._send()

    def published(self) -> None:
        """All done."""
        self._status = self._status.model_copy(update={"progress_percentage": 100, "estimated_remaining_seconds": 0})
        self._send()

    def _seconds_left(self, step: int) -> int:
        first, _, began = self._began
        return round((time.monotonic() - began) / max(1, step - first) * (self._steps - step))

    def _tell(self, step: int, left: int | None, figures: Figures | None = None) -> None:
        counts = {"current_step": step, "total_steps": self._steps}
        self._status = TrainerStatus(
            progress_percentage=min(99, 100 * step // self._steps),  # 100 is for what is published
            estimated_remaining_seconds=left,
            metrics=metrics_of(counts | (figures or {})),
        )
        self._send()

    def _send(self) -> None:
        with self._sending:
            status = self._status.model_copy(update={"last_updated_time": now(), "message": self._warning})
            self._reporter.send(
                Report(
                    trainer_status=status,
                    checkpoints=self._checkpoints or None,
                    resumed_from_step=self._resumed_from,
                )
            )


def _say(line: str) -> None:
    """A line of its own, whatever other threads say: print writes a line and its end apart."""
    print(f"{line}\n", end="", flush=True)


def duration(seconds: int) -> str:
    """For people: 42s, 3m20s, 2h05m."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
