"""The run of Weights & Biases: written to files, and sent by the library's own ``wandb sync`` where the job has a key.

Called by :mod:`finetune_trainer.tracking`.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from finetune_api.artifacts import Resolved
from finetune_api.v1alpha1.tracking import WandbTracking
from finetune_storage.credentials import read_secret

KEY = "WANDB_API_KEY"
LONGEST_SECONDS = 120
"""Sending may take; for a server that is away the program tries for ever, and a GPU waits."""
SENT = "Finished syncing"
"""What it says at a good end; its exit code is 0 at some bad ones too."""


class NotSent(Exception):
    """The server has no run, or not all of it; says why."""


def write(stated: WandbTracking, resolved: Resolved, lines: list[dict[str, Any]], folder: Path) -> None:
    """The run as files below ``folder``. Raises wandb.Error, OSError, and ValueError for settings of the environment."""
    import wandb

    run = wandb.init(
        mode="offline",
        dir=str(folder),
        project=stated.project,
        entity=stated.entity,
        id=resolved.uid,
        name=f"{resolved.namespace}/{resolved.name}",
        config={
            "method": resolved.method,
            "adapter": resolved.adapter.wire(),
            "training": resolved.training.wire(),
        },
        settings=_nothing_else(),
    )
    for line in lines:
        run.log(figures(line), step=line["step"])
    run.finish()


def send(stated: WandbTracking, folder: Path, secrets_dir: Path) -> None:
    """Send the files of :func:`write`. Raises NotSent, or Failure about the Secret.

    The key is in the environment of the program that sends, which takes it from nowhere else, and in no other.
    """
    assert stated.secret_ref is not None
    key = read_secret(secrets_dir / stated.secret_ref.name, (KEY,), 0)[KEY]  # it is mounted since the pod began
    server = {"WANDB_BASE_URL": stated.uri} if stated.uri else {}
    [run] = folder.glob("wandb/offline-run-*")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", str(run)],
            cwd=folder,  # where it writes a log
            env=os.environ | server | {KEY: key},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotSent(f"the server did not take the run within {LONGEST_SECONDS} s") from None
    if SENT not in done.stdout:
        raise NotSent(f"wandb sync: {_complaint(done.stdout)}; look at the key, the entity and the uri")


def _complaint(said: str) -> str:
    """The line that tells most."""
    lines = [line.removeprefix("wandb: ") for line in said.strip().splitlines() if "debug-cli" not in line]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no word")


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


def figures(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl but its step."""
    return {name: value for name, value in line.items() if name != "step" and not isinstance(value, str)}
