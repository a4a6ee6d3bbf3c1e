"""The frame of a stage's program: command line, configuration, SIGTERM, last words, exit code.

Used by ``python -m finetune_trainer`` and ``python -m finetune_delegate``.
"""

import argparse
import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from finetune_api.model import first_fault
from finetune_api.pods import JobConfig, Stage, Summary
from finetune_api.reasons import Failure, Reason
from finetune_stage.outcome import Places, exit_code, failed, termination_message


def add_arguments(parser: argparse.ArgumentParser, stages: list[str]) -> None:
    """What every stage's program takes."""
    defaults = Places()
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--attempt", type=int, required=True, help="which try of the stage this is, from 1")
    parser.add_argument("--config", type=Path, default=defaults.config, help="job.json (default: %(default)s)")
    for name in ("secrets-dir", "sources-dir", "work-dir", "termination-log"):
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=Path, default=default, help="(default: %(default)s)")
    parser.add_argument(
        "--secret-wait",
        type=float,
        default=defaults.secret_wait,
        help="seconds to wait for a Secret (default: %(default)s)",
    )


def places_of(options: argparse.Namespace) -> Places:
    """Where the stage finds its files."""
    return Places(**{field.name: getattr(options, field.name) for field in fields(Places)})


def run_stage(stage: Stage, places: Places, work: Callable[[JobConfig], Summary], stopped: str) -> int:
    """Do the work and write the termination message; the exit code. ``stopped`` is the sentence where SIGTERM came."""
    signal.signal(signal.SIGTERM, _stop)  # before anything heavy is imported: a pod is often stopped while it starts
    try:
        summary = work(_config(places.config))
    except _Stopped:
        summary = failed(stage, Failure(Reason.INTERRUPTED, stopped))
    except Exception as error:  # the edge: whatever went wrong becomes the pod's last words
        summary = failed(stage, error)
    message = termination_message(summary)
    places.termination_log.write_bytes(message)
    print(message.decode(), flush=True)
    return exit_code(summary)


class _Stopped(BaseException):
    """SIGTERM came. No Exception: logging and libraries catch those, and would go on."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _config(path: Path) -> JobConfig:
    try:
        return JobConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Failure(Reason.CONFIG_INVALID, f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise Failure(Reason.CONFIG_INVALID, f"{path}: {first_fault(error)}") from None
