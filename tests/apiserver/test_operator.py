"""The operator's process against a real API server, Job controller and scheduler; killed with SIGKILL at every stage.

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
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from builders import a_job, a_report, a_summary
from demo.kubectl import Kubectl, Object, condition, is_true, wait_until
from finetune_api import pods

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).parents[2]
START = """
import sys, finetune_api
finetune_api.GROUP = sys.argv[1]
finetune_api.API_VERSION = sys.argv[1] + "/" + finetune_api.VERSION
from finetune_operator.__main__ import main
main()
"""
NOWHERE = {"kubernetes": {"pod": {"nodeSelector": {"finetune.dev/no-such-node": "true"}}}}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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


@pytest.fixture
def stage(group: str, namespace: Kubectl, tmp_path: Path) -> Iterator[Stage]:
    """A namespace with a running operator."""
    operator = Operator(group, namespace, tmp_path / "operator.log")
    operator.start()
    yield Stage(namespace, group, operator)
    operator.stop()


def test_a_job_completes_though_the_operator_is_killed_at_every_stage(stage: Stage) -> None:
    stage.operator.kill()
    stage.apply()
    stage.operator.start()
    stage.pod("Prepare")
    stage.operator.kill()
    stage.end("Prepare", message=a_summary("Prepare"))
    stage.operator.start()
    stage.run("Train")
    stage.when("Running", lambda job: is_true(job, "Running"))
    stage.operator.restart()
    stage.end("Train", message=a_summary("Train"))
    stage.operator.restart()
    job = stage.when("Complete", lambda job: is_true(job, "Complete"))
    assert [(a["stage"], a["number"], a["outcome"]) for a in job["status"]["attempts"]] == [
        ("Prepare", 1, "Succeeded"),
        ("Train", 1, "Succeeded"),
    ]
    assert len(stage.kubectl.list("jobs")) == 2
    assert len(stage.kubectl.list("pods")) == 2
    stage.kubectl("wait", f"{stage.kind}/bot", "--for=condition=Complete", "--timeout=1s")
    stage.kubectl("wait", f"{stage.kind}/bot", "--for=condition=Finished", "--timeout=1s")


def test_a_job_that_is_done_is_written_no_more(stage: Stage) -> None:
    stage.apply()
    stage.end("Prepare", message=a_summary("Prepare"))
    stage.end("Train", message=a_summary("Train"))
    job = stage.when("Complete", lambda job: is_true(job, "Complete"))
    resyncs = calls(stage, 'finetune_reconciles_total{kind="FineTuneJob",outcome="ok"}')
    written = calls(stage, 'verb="P')  # POST, PUT, PATCH
    wait_until(
        "three resyncs",
        lambda: calls(stage, 'finetune_reconciles_total{kind="FineTuneJob",outcome="ok"}') > resyncs + 3,
        30,
    )
    assert calls(stage, 'verb="P') == written
    assert stage.job()["metadata"]["resourceVersion"] == job["metadata"]["resourceVersion"]


def calls(stage: Stage, part: str) -> float:
    """The sum of the metrics whose line contains a text."""
    lines = [
        line for line in stage.operator.probe("/metrics").splitlines() if part in line and not line.startswith("#")
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if "_created" not in line)


def test_deleting_a_job_takes_its_children_along(stage: Stage) -> None:
    stage.apply()
    stage.run("Prepare")
    stage.kubectl("delete", stage.kind, "bot", "--timeout=20s")
    for kind in ("jobs", "pods"):
        wait_until(f"no {kind}", lambda kind=kind: not stage.kubectl.list(kind), 30)  # type: ignore[misc]
    assert not stage.kubectl.list("configmaps", "finetune.dev/job=bot")
    assert stage.operator.probe("/healthz") == "ok\n"


def test_an_oom_kill_is_retried_with_half_the_micro_batch(stage: Stage) -> None:
    stage.apply()
    stage.end("Prepare", message=a_summary("Prepare"))
    stage.end("Train", code=137, reason="OOMKilled")
    pod = stage.pod("Train", 2)
    assert pod["spec"]["containers"][0]["args"][-2:] == ["--micro-batch-divisor", "2"]
    attempts = stage.job()["status"]["attempts"]
    assert [(a["stage"], a.get("outcome")) for a in attempts] == [
        ("Prepare", "Succeeded"),
        ("Train", "OutOfMemory"),
        ("Train", None),
    ]


def test_a_deleted_pod_and_a_deleted_job_are_replaced(stage: Stage) -> None:
    stage.apply()
    stage.end("Prepare", message=a_summary("Prepare"))
    stage.kubectl("delete", "pod", stage.pod("Train")["metadata"]["name"], "--wait=false")
    second = stage.pod("Train", 2)
    stage.kubectl("delete", "job", second["metadata"]["labels"]["batch.kubernetes.io/job-name"], "--wait=false")
    stage.pod("Train", 3)
    outcomes = [a.get("outcome") for a in stage.job()["status"]["attempts"]]
    assert outcomes == ["Succeeded", "Infrastructure", "Infrastructure", None]


def test_suspend_resume_cancel(stage: Stage) -> None:
    stage.apply()
    stage.end("Prepare", message=a_summary("Prepare"))
    stage.run("Train")
    stage.apply(suspend=True)
    stage.when("Suspended", lambda job: is_true(job, "Suspended"))
    wait_until("no train pod", lambda: not stage.kubectl.list("pods", "finetune.dev/stage=train"), 30)
    stage.apply(suspend=False)
    stage.run("Train", 2)
    stage.when("Running", lambda job: is_true(job, "Running"))
    stage.apply(cancel=True)
    job = stage.when("Finished", lambda job: is_true(job, "Finished"))
    failed = condition(job, "Failed")
    assert failed is not None
    assert failed["reason"] == "Cancelled"
    wait_until("no train pod", lambda: not stage.kubectl.list("pods", "finetune.dev/stage=train"), 30)


def test_a_quota_that_leaves_no_pod_is_said(stage: Stage) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    stage.kubectl.apply(quota)
    stage.apply()
    said = stage.when(
        "the quota is named",
        lambda job: "exceeded quota" in (condition(job, "DataValidated") or {}).get("message", ""),
        seconds=60,
    )
    assert not is_true(said, "Finished")


def test_one_refused_job_stops_no_other(stage: Stage) -> None:
    stage.apply("bad", method={"cpt": {}}, evaluation={"metrics": ["ExactMatch"]})
    stage.apply("good")
    stage.when("refused", lambda job: condition(job, "Accepted") is not None, "bad")
    stage.pod("Prepare", name="good")


def test_a_report_is_believed_only_from_the_jobs_own_pod(stage: Stage) -> None:
    stage.apply()
    stage.end("Prepare", message=a_summary("Prepare"))
    pod = stage.run("Train")
    stage.when("Running", lambda job: is_true(job, "Running"))
    neighbour = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "neighbour"}, "spec": pod["spec"]
    }  # fmt: skip
    stage.kubectl.apply(neighbour)

    def token(name: str, audience: str = pods.REPORT_AUDIENCE) -> str:
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={name}")
        return stage.kubectl("create", "token", "default", f"--audience={audience}", *bound).strip()

    body = a_report(42).model_dump_json(by_alias=True, exclude_none=True).encode()
    namespace = stage.kubectl.namespace
    own = token(pod["metadata"]["name"])
    assert stage.operator.report("bot", namespace, own, body) == 200
    job = stage.when("42 %", lambda job: job["status"].get("progress") == "42%")
    assert job["status"]["trainerStatus"]["progressPercentage"] == 42
    assert stage.operator.report("bot", namespace, token("neighbour"), body) == 403
    assert stage.operator.report("bot", namespace, token(pod["metadata"]["name"], "other"), body) == 401
    assert stage.operator.report("bot", namespace, "nonsense", body) == 401
    assert stage.operator.report("other", namespace, own, body) == 403
    assert stage.operator.report("bot", "default", own, body) == 403
    assert stage.operator.report("bot", namespace, own, b"{}") == 400
    assert stage.operator.report("bot", namespace, own, b" " * (pods.MAX_REPORT_BYTES + 1)) == 413


def test_a_cut_line_to_the_api_server_is_survived_and_made_up_for(stage: Stage, tmp_path: Path) -> None:
    line = Line(stage.kubectl, tmp_path)
    line.connect()
    stage.operator.kill()
    stage.operator.connect_through(line.kubeconfig)
    stage.operator.start()
    stage.apply()
    stage.apply("gone")
    stage.pod("Prepare", name="gone")
    stage.pod("Prepare")
    line.cut()
    stage.apply("late")  # created in the gap
    stage.kubectl("delete", stage.kind, "gone", "--timeout=20s")  # deleted in the gap: no watch will ever say so
    stage.end("Prepare", message=a_summary("Prepare"))  # changed in the gap
    refused = calls(stage, 'code="0"')
    wait_until("calls are refused", lambda: calls(stage, 'code="0"') > refused, 30)
    line.connect()
    stage.pod("Train")
    stage.pod("Prepare", name="late")
    wait_until("gone is forgotten", lambda: known_jobs(stage) == 2, 30)


def known_jobs(stage: Stage) -> float:
    """FineTuneJobs in the operator's cache."""
    return calls(stage, "finetune_jobs{")


def test_fifty_jobs_at_once(stage: Stage) -> None:
    started = time.monotonic()
    bodies = []
    for number in range(50):
        body = a_job(f"job-{number}", backend=NOWHERE)
        bodies.append({**body, "apiVersion": f"{stage.group}/v1alpha1", "metadata": {"name": f"job-{number}"}})
    stage.kubectl.apply(*bodies)
    applied = time.monotonic()
    wait_until("50 Jobs", lambda: len(stage.kubectl.list("jobs")) == 50, 60)
    assert time.monotonic() - applied < 30, f"after {applied - started:.0f} s of applying"
