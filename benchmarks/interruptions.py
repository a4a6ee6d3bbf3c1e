"""Interrupt trainings at random moments, and compare the artifact's bytes with those of an uninterrupted one.

    PYTHONPATH=operator:trainer_image:.:tests python -m benchmarks.interruptions [--interruptions 50] [--seed 7] [--only sft-lora]

Every method's tiny job is trained whole, then again with a SIGKILL or a SIGTERM at a random moment of a random step, again and
again until it is done. Each attempt is the train stage as a pod runs it, in a process of its own that is forked from one that has
imported torch already; the store is a real S3 server. Prints a table; exits 1 where an artifact differs.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from finetune_api.artifacts import Manifest, ResolvedAdapterSpec
from finetune_api.pods import JobConfig
from finetune_storage import document
from prepared_jobs import TINY, colour_rows, job_store, prepare_job, texts, training
from s3_server import serve

STEPS = 40
EVERY = 4
SETTINGS = {"steps": STEPS, "checkpoint_every_steps": EVERY}
ANSWERS = {"train": colour_rows(46), "test": colour_rows(6, 100)}
LORA = ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.2)
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "sft-lora": lambda: {"rows": ANSWERS, "adapter": LORA, "settings": training(**SETTINGS)},
    "sft-lora-packed": lambda: {"rows": ANSWERS, "adapter": LORA, "settings": training(**SETTINGS, packing=True)},
    "sft-full": lambda: {
        "rows": ANSWERS,
        "adapter": ResolvedAdapterSpec(type="Full"),
        "settings": training(**SETTINGS, learning_rate=1e-3),
    },
    "sft-qlora": lambda: {
        "rows": ANSWERS,
        "adapter": LORA.model_copy(update={"type": "QLoRA"}),
        "settings": training(**SETTINGS),
    },
    "cpt-full": lambda: {
        "rows": {"train": texts(160), "test": texts(6, 200)},
        "method": "cpt",
        "adapter": ResolvedAdapterSpec(type="Full"),
        "from_config": TINY,
        "settings": training(**SETTINGS, packing=True, learning_rate=3e-3),
    },
}


@dataclass
class Figures:
    """What came of one case."""

    signals: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    stopping: list[float] = field(default_factory=list)
    """Seconds from a SIGTERM to the end of the process."""
    wrong_exit: int = 0
    equal: bool = False


@dataclass(frozen=True)
class Stage:
    """Where jobs run."""

    folder: Path
    bucket: str
    secrets: Path


def fork_train(config: JobConfig, stage: Stage, work: Path) -> tuple[int, int]:
    """Start the train stage in a process of its own; its pid, and a file descriptor with its output."""
    work.mkdir(parents=True)
    (work / "job.json").write_bytes(document(config))
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    os.dup2(write, 1)
    os.dup2(write, 2)
    from finetune_trainer.__main__ import main

    places = {
        "config": work / "job.json",
        "secrets-dir": stage.secrets,
        "work-dir": work,
        "termination-log": work / "end",
    }
    os._exit(main(["train", "--attempt=1", *(f"--{name}={path}" for name, path in places.items())]))


def run(config: JobConfig, stage: Stage, work: Path, stop: tuple[int, float, int] | None) -> tuple[int, float | None]:
    """One attempt; ``stop`` is a step, a delay after it in seconds, and a signal.

    Returns the exit status, and the seconds from the signal to the end; None where it was done before.
    """
    pid, output = fork_train(config, stage, work)
    sent: list[float] = []

    def send(number: int) -> None:
        sent.append(time.monotonic())
        os.kill(pid, number)

    timer = None
    with os.fdopen(output, encoding="utf-8", errors="replace") as lines:
        log = []
        for line in lines:
            log.append(line)
            if stop and timer is None and line.startswith("step ") and int(line[5:].split("/")[0]) >= stop[0]:
                timer = threading.Timer(stop[1], send, [stop[2]])
                timer.start()
    if timer is not None:
        timer.cancel()
        timer.join()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 143, -signal.SIGKILL):
        print("".join(log[-30:]), file=sys.stderr)
    return code, time.monotonic() - sent[0] if sent and code else None


def weights(config: JobConfig, stage: Stage) -> dict[str, str]:
    """sha256 of every safetensors file of the artifact."""
    manifest = Manifest.model_validate_json(job_store(config, stage.secrets).get("manifest.json"))
    return {each.path: each.sha256 for each in manifest.files if each.path.endswith(".safetensors")}


def torture(name: str, stage: Stage, interruptions: int, dice: random.Random) -> Figures:
    """Train a case whole, then with so many interruptions in as many jobs as that takes; compare."""
    figures = Figures(equal=True)
    whole = prepare_job(stage.bucket, stage.secrets, name=f"{name}-whole", **CASES[name]())
    code, _ = run(whole, stage, stage.folder / name / "whole", None)
    if code:
        raise SystemExit(f"{name}: the uninterrupted run ended with {code}")
    expected = weights(whole, stage)
    job = 0
    while sum(figures.signals.values()) < interruptions:
        job += 1
        broken = prepare_job(stage.bucket, stage.secrets, name=f"{name}-{job}", **CASES[name]())
        reached = 0
        for attempt in range(100):
            left = interruptions - sum(figures.signals.values())
            number = dice.choice([signal.SIGKILL, signal.SIGTERM])
            at = (
                dice.randint(reached + 1, min(STEPS - 1, reached + 2 * EVERY))
                if left and reached < STEPS - 1
                else STEPS
            )
            stop = (at, dice.uniform(0, 0.2), number) if at < STEPS else None
            code, seconds = run(broken, stage, stage.folder / name / f"{job}-{attempt}", stop)
            figures.attempts += 1
            if code == 0:
                break
            reached = at
            figures.signals[number.name] += 1
            figures.wrong_exit += code != {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
            if number == signal.SIGTERM and seconds is not None:
                figures.stopping.append(seconds)
        figures.equal = figures.equal and weights(broken, stage) == expected
    return figures


def main() -> int:
    """Run all cases; 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=50, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", action="append", choices=CASES, help="this case; may be repeated")
    args = parser.parse_args()
    names = args.only or list(CASES)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("transformers", "trl"):  # what takes longest, once for all forks; nothing of it starts a thread
        import_module(name)
    dice = random.Random(args.seed)
    each = -(-args.interruptions // len(names))
    print("| case | SIGKILL | SIGTERM | attempts | SIGTERM to exit, median / longest | wrong exit code | same bytes |")
    print("|---|---|---|---|---|---|---|", flush=True)
    right = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with serve(folder / "s3") as server:
            secrets = server.secret(folder / "secrets" / "s3").parent
            stage = Stage(folder, server.bucket("models"), secrets)
            for name in names:
                found = torture(name, stage, each, dice)
                stopping = found.stopping or [0.0]
                print(
                    f"| {name} | {found.signals['SIGKILL']} | {found.signals['SIGTERM']} | {found.attempts} "
                    f"| {statistics.median(stopping):.1f} s / {max(stopping):.1f} s | {found.wrong_exit} "
                    f"| {'yes' if found.equal else 'NO'} |",
                    flush=True,
                )
                right = right and found.equal and not found.wrong_exit
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
