"""How long an adapter's training on a GPU takes from SIGTERM to its end, its checkpoint committed to object storage.

    PYTHONPATH=operator:trainer_image:.:tests python -m benchmarks.stopping [--shape Llama-3.1-8B] [--times 3]

A real architecture with random weights, LoRA of rank 16, batches of eight rows of 2048 tokens, each stop at another moment of a step; the
train stage as a pod runs it, and an S3 server (SeaweedFS) on the same machine.
"""

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.memory import config_of
from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.pods import JobConfig
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from prepared_jobs import job_store, prepare_job, training
from s3_server import serve
from stage_process import start_stage
from tiny_models import tiny_tokenizer

STEPS_BEFORE = 4
LENGTH = 2048


def write_base(shape: str, folder: Path) -> Path:
    """Random weights and a tokenizer; the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def job(bucket: str, secrets: Path, base: Path) -> JobConfig:
    """Of a hundred steps: nobody waits for its end."""
    rows = [{"prompt": "thing " * LENGTH, "completion": f" {number}"} for number in range(64)]
    settings = training(
        steps=100,
        max_length=LENGTH,
        batch_size=8,
        micro_batch_size=2,
        checkpoint_every_steps=100,
        learning_rate=1e-4,
        precision="Auto",
        assistant_only_loss=False,
    )
    adapter = ResolvedAdapterSpec(type="LoRA", rank=16, alpha=32)
    evaluation = EvaluationSpec(metrics=["Loss"])
    return prepare_job(
        bucket, secrets, {"train": rows}, adapter=adapter, settings=settings, evaluation=evaluation, base=base
    )


def stop(config: JobConfig, secrets: Path, work: Path, wait: float) -> tuple[float, list[str]]:
    """Seconds from SIGTERM to the end of one attempt, stopped ``wait`` seconds after a step; and what it said."""
    process = start_stage("finetune_trainer", "train", config, secrets, work)
    assert process.stdout is not None
    said, steps = [], 0
    for line in process.stdout:
        said.append(line.rstrip())
        steps += line.startswith("step ")
        if steps == STEPS_BEFORE:
            break
    time.sleep(wait)  # the moment is what is varied
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=300)
    took = time.monotonic() - began
    if process.returncode != 143:
        raise RuntimeError(f"exit code {process.returncode}:\n" + "\n".join(said) + rest)
    return took, [*said, *rest.splitlines()]


def main() -> None:
    """Print a line for each stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stopping", description=__doc__)
    parser.add_argument("--shape", default="Llama-3.1-8B")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    draw = random.Random(7)
    with tempfile.TemporaryDirectory() as scratch, serve(Path(scratch) / "s3") as server:
        folder = Path(scratch)
        secrets = server.secret(folder / "secrets" / "s3").parent
        config = job(server.bucket("models"), secrets, write_base(options.shape, folder / "base"))
        for number in range(options.times):
            took, said = stop(config, secrets, folder / f"work-{number}", draw.uniform(0, 3))
            kept = [key for key in job_store(config, secrets).list("checkpoints/") if key.endswith("/manifest.json")]
            print(f"stop {number + 1}: exit code 143 after {took:.1f} s; stored: {', '.join(kept)}", flush=True)
            print("\n".join(line for line in said if line.startswith(("step ", "resuming", "checkpoint "))), flush=True)


if __name__ == "__main__":
    main()
