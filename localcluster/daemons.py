"""Start, recognise and stop background processes.

A daemon is found by a mark in its environment, not by a pid file: a mark cannot be stale, a recycled pid never
carries it, and a process whose starter was killed is found too. Signals go through a pidfd, so that they cannot
reach a process that took over the pid in between.
"""

import contextlib
import hashlib
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from localcluster.layout import LOGS, NAME
from localcluster.shell import Failure, say, tail, wait_until

MARK = NAME.upper().replace("-", "_")  # the environment variable that says whose process this is


@dataclass(frozen=True)
class Daemon:
    """A background process: its command and the files it reads once, when it starts."""

    name: str
    command: tuple[str, ...]
    files: tuple[Path, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name}.log"

    @property
    def mark(self) -> str:
        """Name and hash of command, environment and files: another hash means that it must be started again."""
        digest = hashlib.sha256(repr((self.command, self.environment)).encode())
        for file in self.files:
            digest.update(file.read_bytes())
        return f"{self.name}:{digest.hexdigest()[:12]}"


def start(daemon: Daemon) -> bool:
    """Make it run with this command and these files; whether anything had to be done."""
    marks = {pid: mark for pid, mark in running().items() if mark.startswith(f"{daemon.name}:")}
    if list(marks.values()) == [daemon.mark]:
        return False
    for pid in marks:
        stop(pid, marks[pid])
    say(f"starting {daemon.name}")
    LOGS.mkdir(parents=True, exist_ok=True)
    if daemon.log.exists():
        daemon.log.replace(daemon.log.with_suffix(".log.old"))
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        MARK: daemon.mark,
        **dict(daemon.environment),
    }
    with daemon.log.open("w") as log:
        process = subprocess.Popen(
            daemon.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    # Just after exec the environment is not readable yet.
    wait_until(lambda: process.poll() is not None or _mark(process.pid) == daemon.mark, f"{daemon.name} to start", 10)
    return True


def running() -> dict[int, str]:
    """Every process of ours by pid, with its mark; containerd's shims appear as `shim`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (mark := _mark(int(entry.name))):
            found[int(entry.name)] = mark
    return found


def _mark(pid: int) -> str | None:
    prefix = f"{MARK}=".encode()
    with contextlib.suppress(OSError):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        mark = next((entry[len(prefix) :].decode() for entry in variables if entry.startswith(prefix)), None)
        # Children inherit the mark: containerd's shims must not pass for containerd.
        is_shim = mark and "containerd-shim" in str(Path(f"/proc/{pid}/exe").readlink())
        return "shim" if is_shim else mark
    return None


def stop(pid: int, mark: str, seconds: float = 2) -> None:
    """SIGTERM, and SIGKILL when the time is up; nothing if the pid now belongs to somebody else."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if signal_if(pid, lambda: _mark(pid) == mark, number, seconds):
            return
    raise Failure(f"process {pid} ({mark}) does not end, not even by SIGKILL: look at /proc/{pid}/stack")


def signal_if(pid: int, is_ours: Callable[[], bool], number: int, seconds: float = 0) -> bool:
    """Signal the process if it is ours, and wait; whether it is gone."""
    with _handle(pid) as handle:
        if handle is None or not is_ours():
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
        return bool(select.select([handle], [], [], seconds)[0])


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def stop_named(*names: str) -> None:
    """Stop every process of these names, in this order."""
    for name in names:
        for pid, mark in running().items():
            if mark.partition(":")[0] == name:
                say(f"stopping {name}")
                stop(pid, mark)


def log_tail(daemon: Daemon) -> str:
    """The last lines the daemon wrote, for a failure's message."""
    text = daemon.log.read_text(errors="replace") if daemon.log.exists() else ""
    return f"last lines of {daemon.log}:\n{tail(text) or '(empty)'}"
