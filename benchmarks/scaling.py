"""Tokens per second of one GPU and of two, the same work for each GPU: an adapter by DDP, a whole model by FSDP2.

    PYTHONPATH=operator:trainer_image:. python -m benchmarks.scaling [--gpus 1 2] [--only LoRA]

Real architectures with random weights and full rows of random tokens, trained by the train stage's own launcher, settings and trainer;
each GPU takes the same rows a step, so that twice the GPUs should make twice the tokens. Prints one line of JSON per case.
Needs torch with CUDA, transformers, trl, peft; uses neither network nor store.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.memory import base_model, dataset, tokenizer, with_adapter
from finetune_api.reasons import Failure
from finetune_trainer.launcher import Crew, launch
from finetune_trainer.memory import Load

STEPS = 8
COUNTED = 5
"""The last ones; the first are slower."""


@dataclass(frozen=True)
class Case:
    """What one GPU does in a step."""

    shape: str
    load: Load


CASES = [
    Case("Llama-3.1-8B", Load("LoRA", 2048, 2, False, accumulation=2)),
    Case("Llama-3.2-1B", Load("Full", 2048, 4, False, accumulation=2)),
]
CHECK = Case("Qwen2.5-0.5B", Load("Full", 512, 2, False, accumulation=2))
"""Saved and loaded again while it is spread."""


def work(case: Case) -> dict[str, Any]:
    """One process of a training; its figures."""
    import torch
    from peft.helpers import disable_input_dtype_casting
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig

    from finetune_api.artifacts import Resolved, ResolvedTraining
    from finetune_trainer import sharding
    from finetune_trainer.guard import Guard
    from finetune_trainer.kernels import fuse
    from finetune_trainer.machine import Numerics
    from finetune_trainer.methods.sft import SupervisedTrainer
    from finetune_trainer.world import world_of

    world, numerics, load = world_of(), Numerics("cuda", bf16=True), case.load
    times: list[float] = []
    world.join("cuda")

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            times.append(time.monotonic())

    torch.manual_seed(7)  # the same weights and rows everywhere
    base = base_model(case.shape, load)
    if load.adapter != "Full" or world.size == 1:  # as the plan has it
        fuse(base)
    model = sharding.spread(with_adapter(base, load), load.adapter, numerics, world)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    settings = SFTConfig(
        output_dir="/tmp/scaling-run",
        max_steps=STEPS,
        per_device_train_batch_size=load.rows,
        gradient_accumulation_steps=load.accumulation,
        learning_rate=1e-5,
        gradient_checkpointing=load.recompute,
        bf16=True,
        ddp_find_unused_parameters=False,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_length=load.length,
    )
    rows = dataset(load, STEPS * world.size)
    made = SupervisedTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer())
    made.world, made.is_stop_wanted = world, lambda: world.any(False)  # as in training
    made.guard = Guard(Resolved.model_construct(method="sft", training=ResolvedTraining.model_construct()))
    for parameter in made.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    made.remove_callback(PrinterCallback)
    made.add_callback(Clock())
    with disable_input_dtype_casting(made.model):
        made.train()
    took = statistics.median(
        after - before for before, after in zip(times[-COUNTED - 1 :], times[-COUNTED:], strict=False)
    )
    tokens = load.rows * load.accumulation * load.length * world.size
    return {
        "shape": case.shape,
        "adapter": load.adapter,
        "by": "one GPU" if world.size == 1 else "FSDP2" if sharding.is_spread(model) else "DDP",
        "gpus": world.size,
        "gpu": torch.cuda.get_device_name(),
        "rowsPerGpu": load.rows * load.accumulation,
        "length": load.length,
        "tokensPerSecond": round(tokens / took),
        "peakGiB": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "losses": [round(line["loss"], 3) for line in made.state.log_history if "loss" in line],
        **({"resumed": _resumes(made, world)} if case is CHECK else {}),
    }


def _resumes(trainer: Any, world: Any) -> dict[str, Any]:
    """Save as a checkpoint, change everything, load again: whether weights and moments are those of before; and made whole."""
    import torch

    from finetune_trainer import sharding

    folder = Path("/tmp/scaling-run") / f"checkpoint-{trainer.state.global_step}"
    trainer._save_checkpoint(trainer.model, trial=None)
    world.wait()
    parameters = [each for each in trainer.model.parameters() if each.requires_grad]
    before = [_sums(each, trainer) for each in parameters]
    with torch.no_grad():
        for each in parameters:
            each.zero_()
            trainer.optimizer.optimizer.state[each]["exp_avg"].zero_()
    trainer._load_from_checkpoint(str(folder))
    trainer._load_optimizer_and_scheduler(str(folder))
    same = before == [_sums(each, trainer) for each in parameters]
    began = time.monotonic()
    whole = sharding.made_whole(trainer.model, trainer, world)
    found = None if whole is None else sum(each.numel() for each in whole.parameters())
    return {"same": same, "parameters": found, "secondsToWhole": round(time.monotonic() - began, 1)}


def _sums(parameter: Any, trainer: Any) -> tuple[float, float]:
    moments = trainer.optimizer.optimizer.state[parameter]["exp_avg"]
    shares = [each.to_local().double().sum().item() for each in (parameter.detach(), moments)]
    return shares[0], shares[1]


def run(number: int, gpus: int, seconds: float) -> dict[str, Any]:
    """One case on so many GPUs; what its first process says."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "figures.json"
        command = (sys.executable, "-m", "benchmarks.scaling")
        arguments = ["--case", str(number), "--out", str(out)]
        if gpus == 1:
            alone = os.environ | {"CUDA_VISIBLE_DEVICES": "0"}
            subprocess.run([*command, *arguments], env=alone, timeout=seconds, check=False, stdout=sys.stderr)
        else:
            crew = Crew(nodes=1, processes=gpus, first_node="127.0.0.1", node=0)
            late = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGTERM])  # the launcher passes it on
            late.start()
            try:
                launch(crew, arguments, Path(scratch), command)
            except Failure as failure:
                print(failure.message, file=sys.stderr)
            finally:
                late.cancel()
        if not out.exists():
            return {"gpus": gpus, "error": "no figures; stderr has why"}
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def main() -> None:
    """Print a line per case and number of GPUs, with the ratio to the first number."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="cases whose shape and adapter have this in their names")
    parser.add_argument("--seconds", type=float, default=100, help="at most, of a run (default: %(default)s)")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = [*CASES, CHECK]
    if options.case is not None:  # a process of a training
        figures = work(cases[options.case])
        if os.environ.get("RANK", "0") == "0":
            options.out.write_text(json.dumps(figures))
        return
    for number, case in enumerate(cases):
        if options.only not in f"{case.shape} {case.load.adapter}":
            continue
        first = None
        for gpus in [2] if case is CHECK else options.gpus:
            found = run(number, gpus, options.seconds)
            first = first or found.get("tokensPerSecond")
            ratio = round(found.get("tokensPerSecond", 0) / first, 3) if first else None
            print(json.dumps(found | {"ratio": ratio}), flush=True)


if __name__ == "__main__":
    main()
