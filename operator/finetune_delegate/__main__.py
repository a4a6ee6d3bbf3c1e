"""``python -m finetune_delegate train|cancel --attempt N``: the train stage of a delegated job, or the end of what it started.

Exit code 0 if and only if the stage is done; the termination message says what came out, or why not. SIGTERM ends the pod and
nothing else: the provider's job goes on, and the next attempt finds it. Only ``cancel`` cancels.
"""

import argparse
import signal
import sys
from dataclasses import fields
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from finetune_api.pods import JobConfig, Stage, Summary
from finetune_api.reasons import Failure, Reason
from finetune_delegate import recipe
from finetune_delegate.provider import Task
from finetune_stage.outcome import Places, exit_code, failed, termination_message

STAGES: dict[str, Stage] = {"train": "Train", "cancel": "Cancel"}
POLL_SECONDS = 15.0


def main(arguments: list[str]) -> int:
    """Run a stage; its exit code."""
    options = _parser().parse_args(arguments)
    places = Places(**{field.name: getattr(options, field.name) for field in fields(Places)})
    stage = STAGES[options.stage]
    signal.signal(signal.SIGTERM, _stop)
    try:
        summary = _run(stage, Task(_config(places.config), places, options.patience_seconds), options.poll_seconds)
    except _Stopped:
        summary = failed(
            stage, Failure(Reason.INTERRUPTED, "stopped by SIGTERM; the provider's job goes on and is found again")
        )
    except Exception as error:
        summary = failed(stage, error)
    message = termination_message(summary)
    places.termination_log.write_bytes(message)
    print(message.decode(), flush=True)
    return exit_code(summary)


def _run(stage: Stage, task: Task, poll_seconds: float) -> Summary:
    if stage == "Train":
        return Summary(stage=stage, trained=recipe.run(task, poll_seconds))
    recipe.cancel(task)
    return Summary(stage=stage)


class _Stopped(BaseException):
    """SIGTERM came. No Exception: libraries catch those, and would go on."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _config(path: Path) -> JobConfig:
    try:
        return JobConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Failure(Reason.CONFIG_INVALID, f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise Failure(Reason.CONFIG_INVALID, f"{path}: {where}: {first['msg']}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune_delegate", description="Run one stage of a delegated job.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--attempt", type=int, required=True, help="which try of the stage this is, from 1")
    parser.add_argument(
        "--poll-seconds", type=float, default=POLL_SECONDS, help="pause between looks (default: %(default)s)"
    )
    parser.add_argument(
        "--patience-seconds", type=float, default=600.0, help="wait for a silent provider (default: %(default)s)"
    )
    defaults = Places()
    for name in ("config", "secrets-dir", "sources-dir", "work-dir", "termination-log"):
        parser.add_argument(f"--{name}", type=Path, default=getattr(defaults, name.replace("-", "_")))
    parser.add_argument("--secret-wait", type=float, default=defaults.secret_wait)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
