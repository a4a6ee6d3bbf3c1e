"""Run commands, wait for conditions, write files. Used by every step; knows nothing of clusters."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_STARTED = time.monotonic()


class Failure(Exception):
    """A step failed; the message says what, and what to do about it."""


def say(text: str) -> None:
    """Tell the user on stderr, with the seconds since the start: stdout is for results."""
    print(f"localcluster [{time.monotonic() - _STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


def run(
    *command: str | Path,
    check: bool = True,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """The command's stdout; a Failure with the end of its stderr when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        cwd=cwd,
        env=env,
        text=True,
        capture_output=True,
        stdin=None if stdin is not None else subprocess.DEVNULL,
    )
    if check and done.returncode:
        raise Failure(f"`{' '.join(map(str, command))}` exited {done.returncode}:\n{tail(done.stderr or done.stdout)}")
    return done.stdout


def tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:])


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Return as soon as the condition holds; a TimeoutError naming it when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.1)


def write(path: Path, content: str, mode: int = 0o644) -> bool:
    """Write atomically and only when it differs; whether it differed."""
    if path.exists() and path.read_text() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content)
    partial.chmod(mode)
    partial.replace(path)
    return True
