"""A stage's program as a pod runs it: job.json, secrets and work folder by argument, last words in a file."""

import faulthandler
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

from finetune_api.pods import JobConfig
from finetune_storage import document

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
LIBRARIES = [
    "finetune_trainer.recipe",
    "finetune_trainer.train",
    "finetune_delegate.recipe",
    "trl",
    "peft",
    "bitsandbytes",
    "openai",
    "google.genai",
]


def start_stage(
    program: str, stage: str, config: JobConfig, secrets_dir: Path, work: Path, *more: str
) -> subprocess.Popen[str]:
    """The process; its output can be read line by line, its termination message lies in ``work / "end"``."""
    return subprocess.Popen(
        [sys.executable, "-m", program, *_arguments(stage, config, secrets_dir, work), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | ENVIRONMENT,
    )


def fork_stage(
    program: str,
    stage: str,
    config: JobConfig,
    secrets_dir: Path,
    work: Path,
    *more: str,
    environment: dict[str, str] | None = None,
) -> "ForkedProgram":
    """The same, forked from a process that has the libraries loaded."""
    return ForkedProgram(program, [*_arguments(stage, config, secrets_dir, work), *more], environment)


class ForkedProgram:
    """``python -m program``, forked from a process that has the libraries loaded and has computed nothing; read and ended as a
    Popen is.

    Loading them takes longer than what most tests let a stage do.
    """

    def __init__(self, program: str, arguments: list[str], environment: dict[str, str] | None = None) -> None:
        reader, writer = _forking().Pipe(duplex=False)
        whole = os.environ | (environment or {})
        self._process = _forking().Process(target=_run, args=(program, arguments, whole, writer))
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()), "r")
        reader.close()

    @property
    def returncode(self) -> int | None:
        """Exit code, or the negative number of the signal that ended it."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """To the process alone."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """If it is still there."""
        self._process.kill()

    def communicate(self, timeout: float) -> tuple[str, None]:
        """The rest of its output, when it has ended; it is killed after ``timeout`` seconds."""
        watchdog = threading.Timer(timeout, self.kill)
        watchdog.start()
        try:
            output = self.stdout.read()
            self._process.join()
        finally:
            watchdog.cancel()
        return output, None


@cache
def _forking() -> ForkServerContext:
    os.environ |= ENVIRONMENT
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def _run(program: str, arguments: list[str], environment: dict[str, str], output: Connection) -> None:
    os.environ.clear()  # the server's is that of its first test
    os.environ.update(environment)
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    faulthandler.enable()  # what ends in a library leaves a word
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def _arguments(stage: str, config: JobConfig, secrets_dir: Path, work: Path) -> list[str]:
    work.mkdir(parents=True, exist_ok=True)
    (work / "job.json").write_bytes(document(config))
    places = {
        "config": work / "job.json",
        "secrets-dir": secrets_dir,
        "work-dir": work,
        "termination-log": work / "end",
    }
    return [stage, "--attempt=1", *(f"--{name}={path}" for name, path in places.items())]
