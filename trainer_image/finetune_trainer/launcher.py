"""The train stage in several processes: process 1 of the pod starts them, passes SIGTERM on, and says how it ended.

torchrun would turn every exit code into 1, know only whether all or none has failed, and take a second torch into memory.
Imports no torch, so that SIGTERM is in good hands from the first moment.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import FrameType

from pydantic import ValidationError

from finetune_api.pods import RENDEZVOUS_PORT, Summary
from finetune_api.reasons import EXIT_CODES, Failure, Reason
from finetune_trainer.machine import CGROUP_CPU_MAX, thread_count

LAST_SECONDS = 30.0
"""For the others once a process has failed: they may hang in an exchange with it, or be storing a checkpoint."""
TRAINER = (sys.executable, "-m", "finetune_trainer")
TERMINATED = EXIT_CODES[Reason.INTERRUPTED]


@dataclass(frozen=True)
class Crew:
    """The processes of a training."""

    nodes: int
    processes: int
    """Per node."""
    first_node: str
    """Host name of node 0."""
    node: int
    """Which node this is."""

    @property
    def size(self) -> int:
        """Of all nodes."""
        return self.nodes * self.processes

    def environment(self, place: int, port: int) -> dict[str, str]:
        """Of a process: torchrun's names. It sees its own GPU only, so that none takes memory of another's."""
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        visible = gpus.split(",") if gpus else [str(number) for number in range(self.processes)]
        threads = max(1, thread_count(os.environ.get("OMP_NUM_THREADS"), CGROUP_CPU_MAX) // self.processes)
        return {
            "RANK": str(self.node * self.processes + place),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": str(self.processes),
            "MASTER_ADDR": self.first_node,
            "MASTER_PORT": str(port),
            "CUDA_VISIBLE_DEVICES": visible[place % len(visible)],
            "OMP_NUM_THREADS": str(threads),
        }


class _Workers:
    """The processes of this pod, each told once to stop."""

    def __init__(self) -> None:
        self.ended: SimpleQueue[tuple[int, int]] = SimpleQueue()
        """Rank and exit code, in the order of the ends."""
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._told: set[int] = set()
        self._stopping = False

    def start(self, rank: int, command: list[str], environment: dict[str, str]) -> None:
        """Of all, only the first one of the training is heard; errors of all go to stderr."""
        quiet = None if rank == 0 else subprocess.DEVNULL
        process = subprocess.Popen(command, env=os.environ | environment, stdout=quiet)
        self._running[rank] = process
        Thread(target=lambda: self.ended.put((rank, process.wait())), daemon=True).start()
        if self._stopping:
            self.stop()

    def stop(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Pass SIGTERM on; also to those that are yet to be started."""
        self._stopping = True
        for rank, process in list(self._running.items()):
            if rank not in self._told:
                self._told.add(rank)
                process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """What is left of them."""
        for process in self._running.values():
            process.kill()


def launch(crew: Crew, arguments: list[str], work: Path, command: tuple[str, ...] = TRAINER) -> Summary:
    """Run the stage in all of this node's processes, and return what is to be said of it.

    ``arguments`` are those of the stage; each process writes its own last words to ``work/ends/<rank>``.
    """
    ends = work / "ends"
    ends.mkdir(parents=True, exist_ok=True)
    port = RENDEZVOUS_PORT if crew.nodes > 1 else _free_port()
    workers = _Workers()
    signal.signal(signal.SIGTERM, workers.stop)
    first = crew.node * crew.processes
    for place in range(crew.processes):
        workers.start(first + place, [*command, *arguments], crew.environment(place, port))
    codes = _await(workers, first, crew.processes)
    return verdict(codes, {rank: _read(ends / str(rank)) for rank in codes}, first)


def _await(workers: _Workers, first: int, count: int) -> dict[int, int]:
    """Exit codes by rank, in the order of the ends; those that were killed here come without one of their own, as 143."""
    codes: dict[int, int] = {}
    deadline = None
    killed = False
    while len(codes) < count:
        try:
            rank, code = workers.ended.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except Empty:
            workers.kill()
            deadline, killed = None, True
            continue
        codes[rank] = TERMINATED if killed and code < 0 else code
        if code:
            workers.stop()
        # After a SIGTERM the first may be storing a checkpoint for long; it is the last to end.
        if deadline is None and not killed and (rank == first or code not in (0, TERMINATED)):
            deadline = time.monotonic() + LAST_SECONDS
    return codes


def verdict(codes: dict[int, int], said: dict[int, Summary | None], first: int) -> Summary:
    """What the ends come to: the first one's success, else the first error that is not another's consequence.

    ``codes`` are in the order of the ends. Raises Failure where nobody has said what happened.
    """
    if codes[first] == 0:
        return said[first] or Summary(stage="Train")
    errors = [(Reason(each.error.code), each) for rank in codes if (each := said[rank]) is not None and each.error]
    # Who loses another one ends with an error of the library that talks to it; who is told to stop, as Interrupted.
    clear = [each for reason, each in errors if reason not in (Reason.INTERNAL_ERROR, Reason.INTERRUPTED)]
    if clear:
        return clear[0]
    for rank, code in codes.items():
        if code < 0:
            raise _killed(rank, -code, len(codes))
    bugs = [each for reason, each in errors if reason is Reason.INTERNAL_ERROR]
    if bugs or errors:
        return (bugs or [each for _, each in errors])[0]
    if TERMINATED in codes.values():
        raise Failure(Reason.INTERRUPTED, "stage Train was stopped by SIGTERM; the next attempt does it again")
    raise Failure(
        Reason.INTERNAL_ERROR,
        f"training process {next(iter(codes))} ended without a word (exit code {next(iter(codes.values()))}); "
        "the pod's log has what it said",
    )


def _killed(rank: int, number: int, count: int) -> Failure:
    """As for a pod: who is killed from outside is interrupted, any other signal is a bug."""
    reason = Reason.INTERRUPTED if number in (signal.SIGKILL, signal.SIGTERM) else Reason.INTERNAL_ERROR
    return Failure(
        reason,
        f"training process {rank} was ended by {signal.Signals(number).name}, and none of this pod's {count} can go on without it; "
        "the next attempt goes on from the last checkpoint",
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _read(path: Path) -> Summary | None:
    try:
        return Summary.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
