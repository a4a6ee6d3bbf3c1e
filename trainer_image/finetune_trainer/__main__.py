"""``python -m finetune_trainer prepare|train|collect --attempt N``: run one stage of a job.

Exit code 0 if and only if the stage is done and published; the termination message says what came out, or why not.
"""

import argparse
import logging
import os
import sys
from dataclasses import replace

from finetune_api.pods import NODE_ENV, JobConfig, Stage, Summary
from finetune_stage.outcome import Places
from finetune_stage.program import add_arguments, places_of, run_stage
from finetune_trainer.launcher import Crew, launch
from finetune_trainer.world import world_of

STAGES: dict[str, Stage] = {"prepare": "Prepare", "train": "Train", "collect": "Collect"}


def main(arguments: list[str]) -> int:
    """Run a stage; its exit code."""
    options = _parser().parse_args(arguments)
    places, stage = places_of(options), STAGES[options.stage]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    world, work_dir = world_of(), places.work_dir
    crew = Crew(options.nodes, options.processes, options.first_node, int(os.environ.get(NODE_ENV, "0")))
    if world.size > 1:  # one of several, started by the launcher
        own = work_dir / str(world.rank)
        own.mkdir(parents=True, exist_ok=True)
        places = replace(places, work_dir=own, termination_log=work_dir / "ends" / str(world.rank))

    def work(config: JobConfig) -> Summary:
        if crew.size > 1 and world.size == 1:
            return launch(crew, arguments, work_dir)
        return _run(stage, config, places, options)

    return run_stage(stage, places, work, f"stage {stage} was stopped by SIGTERM; the next attempt does it again")


def _run(stage: Stage, config: JobConfig, places: Places, options: argparse.Namespace) -> Summary:
    if stage == "Prepare":
        # transformers imports torch wherever it finds it; as a tokeniser library it works without, and starts in a fifth of the time.
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # the documented way to make an import fail
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # it advises to install torch
        from finetune_trainer.prepare import run

        return Summary(stage=stage, prepared=run(config, places))
    if stage == "Train":
        from finetune_trainer import recipe

        return Summary(stage=stage, trained=recipe.run(config, places, options.attempt, options.micro_batch_divisor))
    from finetune_trainer import collect

    return Summary(stage=stage, trained=collect.run(config, places))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune_trainer", description="Run one stage of a fine-tuning job.")
    add_arguments(parser, list(STAGES))
    parser.add_argument(
        "--micro-batch-divisor", type=int, default=1, help="divide the micro batch, after out of memory"
    )
    parser.add_argument("--nodes", type=int, default=1, help="pods of this training (default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=1, help="processes in each, one per GPU (default: %(default)s)"
    )
    parser.add_argument("--first-node", default="127.0.0.1", help="host name of the first pod (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
