"""The operator's process against a real API server, Job controller and scheduler; to be killed, restarted and cut off.

Pods are created and never scheduled (their nodeSelector fits no node): the test plays the kubelet and writes their status.
The kinds are served under a group of their own, so that an installed operator does not meet the tests' objects.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from builders import a_job
from demo.kubectl import Kubectl, Object, wait_until
from finetune_api import pods
from ports import free_port

ROOT = Path(__file__).parents[1]
START = """
import sys, finetune_api
finetune_api.GROUP = sys.argv[1]
finetune_api.API_VERSION = sys.argv[1] + "/" + finetune_api.VERSION
from finetune_operator.__main__ import main
main()
"""
NOWHERE = {"kubernetes": {"pod": {"nodeSelector": {"finetune.dev/no-such-node": "true"}}}}


class Line:
    """A TCP line to the API server that can be cut."""

    def __init__(self, kubectl: Kubectl, folder: Path) -> None:
        config = json.loads(kubectl("config", "view", "--minify", "--raw", "--flatten", "-o", "json"))
        cluster = config["clusters"][0]["cluster"]
        address = urlsplit(cluster["server"])
        self._server = (str(address.hostname), address.port or 443)
        self.port = free_port()
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        # The certificate names the API server, not this line.
        config["clusters"][0]["cluster"] = {
            "server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True
        }  # fmt: skip
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(config))

    def connect(self) -> None:
        """Let everything through."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._server)
                for source, target in ((near, far), (far, near)):
                    self._connections.add(source)
                    threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._connections.discard(source)
        source.close()


class Operator:
    """The operator's process, watching one namespace."""

    def __init__(self, group: str, kubectl: Kubectl, log: Path) -> None:
        self.report_port, self.probe_port = free_port(), free_port()
        self._command = [sys.executable, "-c", START, group]
        self._env = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "operator"),
            "FINETUNE_TRAINER_IMAGE": "trainer:none",
            "FINETUNE_OPERATOR_IMAGE": "operator:none",
            "FINETUNE_REPORT_URL": "http://unused",
            "FINETUNE_REPORT_PORT": str(self.report_port),
            "FINETUNE_PROBE_PORT": str(self.probe_port),
            "FINETUNE_WATCH_NAMESPACES": kubectl.namespace,
            "FINETUNE_RESYNC_SECONDS": "2",
        }
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def connect_through(self, kubeconfig: Path) -> None:
        """Use another kubeconfig from the next start on."""
        self._env["KUBECONFIG"] = str(kubeconfig)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._env, stdout=log, stderr=log)
        wait_until("the operator is ready", self._is_ready, 60)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """kill -9, and a new process."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """At the end of a test; a process that died by itself is an error of the test."""
        if self._process is not None:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            self._process.terminate()
            assert self._process.wait(20) == 0, self.log.read_text()[-3000:]
            self._process = None

    def probe(self, path: str) -> str:
        """What the probe port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.probe_port}{path}", timeout=5) as response:
            return str(response.read().decode())

    def report(self, name: str, namespace: str, token: str, body: bytes) -> int:
        """HTTP status of a report."""
        path = pods.REPORT_PATH.format(namespace=namespace, name=name)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.report_port}{path}", body, {"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            return self.probe("/readyz") == "ok\n"
        except OSError:
            return False


class Stage:
    """The objects of a test, and the kubelet's part."""

    def __init__(self, kubectl: Kubectl, group: str, operator: Operator) -> None:
        self.kubectl = kubectl
        self.kind = f"finetunejobs.{group}"
        self.group = group
        self.operator = operator

    def apply(self, name: str = "bot", **spec: Any) -> None:
        """Create or change a FineTuneJob whose pods nobody starts."""
        body = a_job(name, **{"backend": NOWHERE, **spec})
        body["apiVersion"] = f"{self.group}/v1alpha1"
        body["metadata"] = {"name": name}
        self.kubectl.apply(body)

    def job(self, name: str = "bot") -> Object:
        """The FineTuneJob."""
        return self.kubectl.get(self.kind, name)

    def when(self, what: str, test: Any, name: str = "bot", seconds: float = 30) -> Object:
        """The FineTuneJob once something is true of it."""

        def seen() -> Object | None:
            body = self.job(name)
            return body if test(body) else None

        return wait_until(f"{name}: {what}", seen, seconds)

    def pod(self, stage: str, number: int = 1, name: str = "bot") -> Object:
        """The pod of an attempt, once the Job controller has made it."""
        selector = f"finetune.dev/job={name},finetune.dev/stage={stage.lower()},finetune.dev/attempt={number}"
        return wait_until(f"{stage} pod {number}", lambda: next(iter(self.kubectl.list("pods", selector)), None), 30)

    def set_pod(self, pod: Object, phase: str, state: Object) -> None:
        """What a kubelet would write."""
        container = {
            "name": "trainer", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state
        }  # fmt: skip
        status = json.dumps({"status": {"phase": phase, "containerStatuses": [container]}})
        self.kubectl("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge", "-p", status)

    def run(self, stage: str, number: int = 1) -> Object:
        """The attempt's container runs."""
        pod = self.pod(stage, number)
        self.set_pod(pod, "Running", {"running": {"startedAt": pod["metadata"]["creationTimestamp"]}})
        return pod

    def end(self, stage: str, number: int = 1, code: int = 0, message: str = "", reason: str = "Error") -> None:
        """The attempt's container ends."""
        pod = self.pod(stage, number)
        time = pod["metadata"]["creationTimestamp"]
        ended = {"exitCode": code, "message": message, "reason": reason, "startedAt": time, "finishedAt": time}
        self.set_pod(pod, "Succeeded" if code == 0 else "Failed", {"terminated": ended})


def calls(stage: Stage, part: str) -> float:
    """The sum of the metrics whose line contains a text."""
    lines = [
        line for line in stage.operator.probe("/metrics").splitlines() if part in line and not line.startswith("#")
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if "_created" not in line)
