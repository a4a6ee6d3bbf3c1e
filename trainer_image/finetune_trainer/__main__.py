"""``python -m finetune_trainer prepare|train|collect --attempt N``: run one stage of a job.

Exit code 0 if and only if the stage is done and published; the termination message says what came out, or why not.
"""

import argparse
import logging
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from finetune_api.pods import JobConfig, Stage, Summary
from finetune_api.reasons import Failure, Reason
from finetune_stage.outcome import Places, exit_code, failed, termination_message

STAGES: dict[str, Stage] = {"prepare": "Prepare", "train": "Train", "collect": "Collect"}


def main(arguments: list[str]) -> int:
    """Run a stage; its exit code."""
    options = _parser().parse_args(arguments)
    places = Places(**{field.name: getattr(options, field.name) for field in fields(Places)})
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    stage = STAGES[options.stage]
    signal.signal(signal.SIGTERM, _stop)  # before anything heavy is imported: a pod is often stopped while it starts
    try:
        summary = _run(stage, places, options.attempt, options.micro_batch_divisor)
    except _Stopped:
        summary = failed(
            stage, Failure(Reason.INTERRUPTED, f"stage {stage} was stopped by SIGTERM; the next attempt does it again")
        )
    except Exception as error:
        summary = failed(stage, error)
    message = termination_message(summary)
    places.termination_log.write_bytes(message)
    print(message.decode(), flush=True)
    return exit_code(summary)


def _run(stage: Stage, places: Places, attempt: int, micro_batch_divisor: int) -> Summary:
    config = _config(places.config)
    if stage == "Prepare":
        # transformers imports torch wherever it finds it; as a tokeniser library it works without, and starts in a fifth of the time.
        sys.modules["torch"] = None  # type: ignore[assignment]
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # it advises to install torch
        from finetune_trainer.prepare import run

        return Summary(stage=stage, prepared=run(config, places))
    if stage == "Train":
        from finetune_trainer import recipe

        return Summary(stage=stage, trained=recipe.run(config, places, attempt, micro_batch_divisor))
    from finetune_trainer import collect

    return Summary(stage=stage, trained=collect.run(config, places))


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
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise Failure(Reason.CONFIG_INVALID, f"{path}: {where}: {first['msg']}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune_trainer", description="Run one stage of a fine-tuning job.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--attempt", type=int, required=True, help="which try of the stage this is, from 1")
    parser.add_argument(
        "--micro-batch-divisor", type=int, default=1, help="divide the micro batch, after out of memory"
    )
    defaults = Places()
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
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
