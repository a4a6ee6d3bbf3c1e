"""The curves as experiment trackers read them, from metrics.jsonl: every logged step once, whatever attempts there were.

Each tracker's library is imported where it is named only. Called by :mod:`finetune_trainer.publish`.
"""

import shutil
from pathlib import Path
from typing import Any

from finetune_api.artifacts import TRACKING, FileEntry, Resolved
from finetune_api.v1alpha1.tracking import WandbTracking
from finetune_trainer.inputs import Inputs

Lines = list[dict[str, Any]]
"""Of metrics.jsonl."""
FILES = ("tensorboard/*", "wandb/offline-run-*/*.wandb", "wandb/offline-run-*/files/*")
"""What is uploaded; a library's own logs are not."""


def track(inputs: Inputs, lines: Lines) -> list[FileEntry]:
    """Write and upload what the job's trackers read; nothing where it names none. An earlier attempt's files are replaced."""
    stated = inputs.resolved.tracking
    if stated is None:
        return []
    folder = inputs.work / TRACKING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if stated.tensorboard is not None:
        _tensorboard(lines, folder / "tensorboard")
    if stated.wandb is not None:
        _wandb(stated.wandb, inputs.resolved, lines, folder)
    inputs.store.delete(inputs.store.list(f"{TRACKING}/"))
    wanted = sorted(path for pattern in FILES for path in folder.glob(pattern))
    files = [path for path in wanted if path.is_file() and not path.is_symlink()]
    return [inputs.store.upload(path, f"{TRACKING}/{path.relative_to(folder).as_posix()}") for path in files]


def _tensorboard(lines: Lines, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for line in lines:
            for name, value in _figures(line).items():
                writer.add_scalar(name, value, line["step"])


def _wandb(stated: WandbTracking, resolved: Resolved, lines: Lines, folder: Path) -> None:
    import wandb

    run = wandb.init(
        mode="offline",
        dir=str(folder),
        project=stated.project,
        entity=stated.entity,
        id=resolved.uid,
        name=f"{resolved.namespace}/{resolved.name}",
        config={"method": resolved.method, "adapter": resolved.adapter.wire(), "training": resolved.training.wire()},
        settings=_nothing_else(),
    )
    for line in lines:
        run.log(_figures(line), step=line["step"])
    run.finish()


def _nothing_else() -> Any:
    """Figures and settings only: nothing of this machine, its packages, or what is printed."""
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


def _figures(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "step" and not isinstance(value, str)}
