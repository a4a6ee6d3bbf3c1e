"""Training speed beside TRL's: the same models, rows and loss, with its defaults, with Liger's kernels, and as the train stage runs.

    PYTHONPATH=operator:trainer_image:. python -m benchmarks.speed [--only "8B LoRA"]

Random weights, full-length random rows; the median of eight steps after the first two, one process each. Needs what benchmarks/memory.py needs.
"""

import argparse
from dataclasses import replace

import torch

from benchmarks.memory import apart
from finetune_trainer.memory import Load

STEPS = 10
CASES = [
    ("Llama-3.1-8B", Load("LoRA", 4096, 2, False)),
    ("Llama-3.1-8B", Load("LoRA", 4096, 4, False)),
    ("Llama-3.1-8B", Load("QLoRA", 4096, 4, False)),
    ("Llama-3.2-1B", Load("LoRA", 4096, 8, False)),
]
SETTINGS = [
    ("TRL's defaults: recomputed, PEFT's casts", {"recompute": True}, True),
    ("TRL, activations kept", {}, True),
    ("TRL, activations kept, Liger's kernels", {"fused": True}, True),
    ("ours, recomputed", {"recompute": True, "fused": True}, False),
    ("ours, `fusedKernels: false`", {}, False),
    ("ours", {"fused": True}, False),
]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose model and adapter contain this")
    options = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__)
    print(
        "| Model | Adapter | Rows x tokens | Settings | Tokens/s | Ratio | Peak GiB |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for shape, case in CASES:
        if options.only not in f"{shape} {case.adapter}":
            continue
        floor = None
        for name, settings, as_trl in SETTINGS:
            found = apart(shape, replace(case, **settings), STEPS, as_trl=as_trl)
            speed, peak = found["tokensPerSecond"], found["allocated"] / 2**30
            floor = floor or speed
            rows = f"{case.rows} x {case.length}"
            print(
                f"| {shape} | {case.adapter} | {rows} | {name} | {speed:,} | {speed / floor:.2f} | {peak:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
