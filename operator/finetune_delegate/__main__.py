"""``python -m finetune_delegate train|cancel --attempt N``: the train stage of a delegated job, or the end of what it started.

Exit code 0 if and only if the stage is done; the termination message says what came out, or why not. SIGTERM ends the pod and
nothing else: the provider's job goes on, and the next attempt finds it. Only ``cancel`` cancels.
"""

import argparse
import sys

from finetune_api.pods import JobConfig, Shown, Stage, Summary
from finetune_delegate import recipe
from finetune_delegate.provider import Task
from finetune_stage.program import add_arguments, places_of, run_stage

STAGES: dict[str, Stage] = {"train": "Train", "cancel": "Cancel"}
POLL_SECONDS = 15.0


def main(arguments: list[str]) -> int:
    """Run a stage; its exit code."""
    options = _parser().parse_args(arguments)
    places, stage = places_of(options), STAGES[options.stage]

    def work(config: JobConfig) -> Summary:
        task = Task(config, places, options.patience_seconds)
        if stage == "Train":
            made = recipe.run(task, options.poll_seconds)
            return Summary(stage=stage, shown=made) if isinstance(made, Shown) else Summary(stage=stage, trained=made)
        recipe.cancel(task)
        return Summary(stage=stage)

    return run_stage(stage, places, work, "stopped by SIGTERM; the provider's job goes on and is found again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune_delegate", description="Run one stage of a delegated job.")
    add_arguments(parser, list(STAGES))
    parser.add_argument(
        "--poll-seconds", type=float, default=POLL_SECONDS, help="pause between looks (default: %(default)s)"
    )
    parser.add_argument(
        "--patience-seconds", type=float, default=600.0, help="wait for a silent provider (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
