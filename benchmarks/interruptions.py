"""Interrupt trainings at random moments, and compare the artifact's bytes with those of an uninterrupted one.

    PYTHONPATH=operator:trainer_image:.:tests python -m benchmarks.interruptions [--interruptions 50] [--seed 7] [--only sft-lora] [--workers 16]

Every method's tiny job is trained whole, then again with a SIGKILL or a SIGTERM at a random moment of a random step, again and
again until it is done. Each attempt is the train stage as a pod runs it, in a process of its own that is forked from one that has
imported torch already; the store is a real S3 server. Cases run side by side with --workers; what is interrupted when depends on
the seed and the case only. Prints a table; exits 1 where an artifact differs.
"""

import argparse
import multiprocessing
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
from typing import Any, NoReturn

from finetune_api.artifacts import Manifest, ResolvedAdapterSpec
from finetune_api.pods import JobConfig
from finetune_api.v1alpha1.methods import ClassificationMethod
from finetune_api.v1alpha1.reinforcement import GrpoMethod, PpoMethod, RegexReward, RewardSpec
from finetune_api.v1alpha1.training import MethodSpec
from finetune_storage import document
from prepared_jobs import TINY, classes, colour_rows, job_store, preferences, prepare_job, texts, training, verdicts
from s3_server import serve

STEPS = 40
EVERY = 4
SETTINGS = {"steps": STEPS, "checkpoint_every_steps": EVERY}
ANSWERS = {"train": colour_rows(46), "test": colour_rows(6, 100)}
PAIRS = {"train": preferences(46), "test": preferences(6, 100)}
LORA = ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.2)
GRPO = GrpoMethod(
    rewards=[RewardSpec(regex=RegexReward(pattern="[a-m]"))],
    num_generations=4,
    max_new_tokens=4,
    temperature=1.0,
    beta=0.0,
)

PPO = PpoMethod(
    rewards=[RewardSpec(regex=RegexReward(pattern="[a-m]"))],
    max_new_tokens=4,
    temperature=1.0,
    kl_coefficient=0.05,
    clip_range=0.2,
    gamma=1.0,
    gae_lambda=0.95,
    epochs=2,
    value_coefficient=0.1,
)


def of_method(method: str, rows: dict[str, Any], own: MethodSpec | None = None, **settings: Any) -> dict[str, Any]:
    """A case of a method that trains an adapter."""
    stated = training(**SETTINGS, **settings)
    return {"rows": rows, "method": method, "method_settings": own, "adapter": LORA, "settings": stated}


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
    "dpo-lora": lambda: of_method("dpo", PAIRS),
    "orpo-lora": lambda: of_method("orpo", PAIRS),
    "kto-lora": lambda: of_method("kto", {"train": verdicts(24), "test": verdicts(6, 100)}),
    "reward-lora": lambda: of_method("reward", PAIRS),
    "grpo-lora": lambda: of_method(
        "grpo", {"train": colour_rows(12)}, MethodSpec(grpo=GRPO), batch_size=8, micro_batch_size=8
    ),
    "ppo-lora": lambda: of_method(
        "ppo", {"train": colour_rows(46)}, MethodSpec(ppo=PPO), batch_size=8, micro_batch_size=4
    ),
    "classification-lora": lambda: of_method(
        "classification",
        {"train": classes(46), "test": classes(6, 100)},
        MethodSpec(classification=ClassificationMethod(labels=["blue", "green", "red"], multi_label=False)),
    ),
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
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a pod begins
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
    try:
        with os.fdopen(output, encoding="utf-8", errors="replace") as lines:
            log = []
            for line in lines:
                log.append(line)
                if stop and timer is None and line.startswith("step ") and int(line[5:].split("/")[0]) >= stop[0]:
                    timer = threading.Timer(stop[1], send, [stop[2]])
                    timer.start()
    except SystemExit:  # of end
        os.kill(pid, signal.SIGKILL)
        raise
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


def torture(name: str, stage: Stage, interruptions: int, seed: int) -> tuple[str, Figures]:
    """Train a case whole, then with so many interruptions in as many jobs as that takes; compare."""
    figures = Figures(equal=True)
    dice = random.Random(f"{seed} {name}")
    whole = prepare_job(stage.bucket, stage.secrets, name=f"{name}-whole", **CASES[name]())
    code, _ = run(whole, stage, stage.folder / name / "whole", None)
    if code:
        raise RuntimeError(f"{name}: the uninterrupted run ended with {code}")
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
            if code not in (143, -signal.SIGKILL):  # broken by itself, and would be again
                raise RuntimeError(f"{name}: an attempt ended with {code}; its last lines are above")
            reached = at
            figures.signals[number.name] += 1
            figures.wrong_exit += code != {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
            if number == signal.SIGTERM and seconds is not None:
                figures.stopping.append(seconds)
        figures.equal = figures.equal and weights(broken, stage) == expected
    return name, figures


def _torture(task: tuple[str, Stage, int, int]) -> tuple[str, Figures]:
    return torture(*task)


def end(number: int, frame: object) -> NoReturn:
    """Of a SIGTERM: leave by the way on which servers and trainings are ended."""
    raise SystemExit(128 + number)


def row(name: str, found: Figures) -> str:
    """Of the table."""
    stopping = found.stopping or [0.0]
    return (
        f"| {name} | {found.signals['SIGKILL']} | {found.signals['SIGTERM']} | {found.attempts} "
        f"| {statistics.median(stopping):.1f} s / {max(stopping):.1f} s | {found.wrong_exit} "
        f"| {'yes' if found.equal else 'NO'} |"
    )


def main() -> int:
    """Run all cases; 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=50, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1, help="cases at the same time (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=CASES, help="this case; may be repeated")
    args = parser.parse_args()
    names = args.only or list(CASES)
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("transformers", "trl"):  # what takes longest, once for all forks; nothing of it starts a thread
        import_module(name)
    each = -(-args.interruptions // len(names))
    print("| case | SIGKILL | SIGTERM | attempts | SIGTERM to exit, median / longest | wrong exit code | same bytes |")
    print("|---|---|---|---|---|---|---|", flush=True)
    signal.signal(signal.SIGTERM, end)
    right = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with serve(folder / "s3") as server:
            secrets = server.secret(folder / "secrets" / "s3").parent
            stages = {name: Stage(folder, server.bucket(name), secrets) for name in names}
            with multiprocessing.get_context("fork").Pool(args.workers) as pool:
                tasks = [(name, stages[name], each, args.seed) for name in names]
                for name, found in pool.imap_unordered(_torture, tasks):
                    print(row(name, found), flush=True)
                    right = right and found.equal and not found.wrong_exit
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
