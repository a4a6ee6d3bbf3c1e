"""The curves as experiment trackers read them at the end, from metrics.jsonl: every logged step once, whatever attempts there were.

Each tracker's library is imported where it is named only. Called by :mod:`finetune_trainer.publish`.
"""

import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from finetune_api.artifacts import TRACKING, FileEntry, Resolved
from finetune_api.v1alpha1.tracking import WandbTracking
from finetune_trainer import wandb_run
from finetune_trainer.inputs import Inputs
from finetune_trainer.mlflow_run import Ended, send
from finetune_trainer.wandb_run import figures

Lines = list[dict[str, Any]]
"""Of metrics.jsonl."""
FILES = ("tensorboard/*", "wandb/offline-run-*/*.wandb", "wandb/offline-run-*/files/*")
"""What is uploaded; a library's own logs are not."""
MOST_SAID = 200
"""Characters of a library's sentence: there is little room in a summary."""


class Tracked(NamedTuple):
    """What the trackers got."""

    files: list[FileEntry]
    error: str | None
    """Which tracker failed, and why."""


def track(inputs: Inputs, ended: Ended) -> Tracked:
    """Write and upload, or send, what the job's trackers read; nothing where it names none. An earlier attempt's files are replaced.

    A tracker that cannot be served is told of, and no reason to lose what was trained.
    """
    stated, resolved, lines = inputs.resolved.tracking, inputs.resolved, ended.lines
    if stated is None:
        return Tracked([], None)
    folder = inputs.work / TRACKING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    errors = []
    if stated.tensorboard is not None:
        errors += _tried("tensorboard", lambda: _tensorboard(lines, folder / "tensorboard"))
    if (wandb := stated.wandb) is not None:
        errors += _tried("wandb", lambda: _wandb(wandb, resolved, lines, folder, inputs.places.secrets_dir))
    if (mlflow := stated.mlflow) is not None:
        errors += _tried("mlflow", lambda: send(mlflow, ended, inputs.places.secrets_dir))
    inputs.store.delete(inputs.store.list(f"{TRACKING}/"))
    wanted = sorted(path for pattern in FILES for path in folder.glob(pattern))
    files = [path for path in wanted if path.is_file() and not path.is_symlink()]
    uploaded = [inputs.store.upload(path, f"{TRACKING}/{path.relative_to(folder).as_posix()}") for path in files]
    return Tracked(uploaded, "; ".join(errors) or None)


def _tried(tracker: str, write: Callable[[], None]) -> list[str]:
    """Write or send, or say what went wrong. Any error of a tracker's library costs its curves only; its trace is in the log."""
    try:
        write()
    except Exception as error:
        traceback.print_exc()
        return [f"tracking.{tracker} failed: {sentence(error)}"]
    return []


def sentence(error: Exception) -> str:
    """On one line, as there is room for it."""
    return " ".join(str(error).split())[:MOST_SAID] or type(error).__name__


def _tensorboard(lines: Lines, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for line in lines:
            for name, value in figures(line).items():
                writer.add_scalar(name, value, line["step"])


def _wandb(stated: WandbTracking, resolved: Resolved, lines: Lines, folder: Path, secrets_dir: Path) -> None:
    """Write the run, and send it where there is a key."""
    wandb_run.write(stated, resolved, lines, folder)
    if stated.secret_ref is not None:
        wandb_run.send(stated, folder, secrets_dir)
