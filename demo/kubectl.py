"""The cluster as a user sees it: kubectl and helm, nothing else. Used by the demo and by the end-to-end tests."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
Object = dict[str, Any]
GROUP = "finetune.dev"


class CommandFailed(RuntimeError):
    """A command that ended with an error; the message is what it printed."""


def find_tool(name: str) -> str:
    """Path of kubectl or helm: the environment variable of that name in capitals, else PATH."""
    found = os.environ.get(name.upper()) or shutil.which(name)
    if found is None:
        raise CommandFailed(f"{name} is not on PATH; put it there or name it in {name.upper()}")
    return found


class Kubectl:
    """kubectl with one kubeconfig; ``namespace`` is the default of every call."""

    def __init__(self, kubeconfig: str | None = None, namespace: str = "default") -> None:
        self.namespace = namespace
        self.env = {**os.environ, **({"KUBECONFIG": kubeconfig} if kubeconfig else {})}
        self._binary = find_tool("kubectl")

    def within(self, namespace: str) -> "Kubectl":
        """The same cluster, another default namespace."""
        return Kubectl(self.env.get("KUBECONFIG"), namespace)

    def command(self, *args: str) -> list[str]:
        """The command line of a call."""
        return [self._binary, "--namespace", self.namespace, *args]

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl; what it printed. Raises CommandFailed with its error text."""
        done = subprocess.run(
            self.command(*args), env=self.env, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise CommandFailed(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def apply(self, *objects: Object) -> str:
        """kubectl apply, strict: an unknown field is refused."""
        # Documents, not a List: in a List kubectl itself checks the fields, with poorer sentences than the API server's.
        return self("apply", "-f", "-", stdin="\n".join(json.dumps(found) for found in objects))

    def find(self, kind: str, name: str) -> Object | None:
        """The object, or None."""
        text = self("get", kind, name, "--ignore-not-found", "-o", "json")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def get(self, kind: str, name: str) -> Object:
        """The object. Raises CommandFailed when it is not there."""
        found: Object = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """The objects of a kind."""
        items: list[Object] = json.loads(self("get", kind, "-l", selector, "-o", "json"))["items"]
        return items

    @contextlib.contextmanager
    def port_forward(self, target: str, port: int) -> Iterator[int]:
        """A local port that leads to ``target`` (for example service/x); the port's number."""
        process = subprocess.Popen(
            self.command("port-forward", "--address", "127.0.0.1", target, f":{port}"),
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise CommandFailed(f"port-forward to {target}: {line.strip()}")
            yield int(found.group(1))
        finally:
            process.terminate()
            process.wait()


def condition(found: Object | None, type_: str) -> Object | None:
    """A condition of an object, or None."""
    conditions = ((found or {}).get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == type_), None)


def is_true(found: Object | None, type_: str) -> bool:
    """Whether a condition holds."""
    seen = condition(found, type_)
    return seen is not None and seen["status"] == "True"


def wait_until(what: str, probe: Callable[[], T | None], seconds: float, pause: float = 0.5) -> T:
    """The first truthy answer of ``probe``. Raises TimeoutError that says what was awaited."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)
    return answer
