"""Faults during training: each is survived, status says so, and the result is as if nothing had happened."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from demo.kubectl import Kubectl, Object, is_true, wait_until
from e2e_jobs import data_config_map, finished, fresh_namespace, job_when, jsonl, rows, tiny_job, train_pod

pytestmark = pytest.mark.e2e

Connect = Callable[[], AbstractContextManager[Any]]
SYSTEM = "finetune-system"
STORE = "finetune-operator-s3"
# Long enough to be hit in the middle on two busy cores, with a checkpoint every few seconds.
LONG = {"maxSteps": 600, "batchSize": 4, "maxLength": 64, "checkpointEverySteps": 25, "seed": 7}


def adapter_files(store: Any, job: Object) -> dict[str, str]:
    """path -> sha256 of the published adapter's weights, from its manifest."""
    bucket, _, key = job["status"]["artifact"]["uri"].removeprefix("s3://").partition("/")
    manifest = json.loads(store.get_object(Bucket=bucket, Key=f"{key}/manifest.json")["Body"].read())
    return {file["path"]: file["sha256"] for file in manifest["files"] if file["path"].endswith(".safetensors")}


def started(kubectl: Kubectl, base: str, name: str = "tiny") -> Object:
    """A long job with a committed checkpoint."""
    kubectl.apply(data_config_map(jsonl(rows())), tiny_job(base, name, training=LONG))
    return job_when(kubectl, name, "first checkpoint", lambda j: bool(j.get("status", {}).get("checkpoints")), 240)


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Kubectl, credentials: dict[str, str], connect_store: Connect, tiny_base: str
) -> dict[str, str]:
    """Weights of the same job when nobody disturbs it."""
    with fresh_namespace(cluster, credentials) as kubectl, connect_store() as store:
        kubectl.apply(data_config_map(jsonl(rows())), tiny_job(tiny_base, training=LONG))
        job = finished(kubectl, "tiny", 400)
        assert is_true(job, "Complete"), job["status"]
        files = adapter_files(store, job)
    assert files
    return files


def assert_recovered(job: Object, store: Any, undisturbed: dict[str, str]) -> None:
    """Complete after a second attempt that went on from a checkpoint, with the undisturbed run's weights."""
    assert is_true(job, "Complete"), job["status"]
    train = [attempt for attempt in job["status"]["attempts"] if attempt["stage"] == "Train"]
    assert len(train) >= 2, train
    assert train[0]["outcome"] != "Succeeded"
    assert job["status"]["resumedFromStep"] >= 25
    assert adapter_files(store, job) == undisturbed


def trainer_process(pod: Object) -> int:
    """Process id of the trainer as this machine sees it: inside its own pid namespace process 1 cannot be killed."""
    uid = pod["metadata"]["uid"]
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # processes end while we look
            mine = uid in (path / "cgroup").read_text().replace("_", "-")
            if mine and b"finetune_trainer" in (path / "cmdline").read_bytes():
                return int(path.name)
    raise AssertionError(f"no trainer process for pod {pod['metadata']['name']}")


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_killed_trainer_resumes(
    namespace: Kubectl, tiny_base: str, store: Any, undisturbed: dict[str, str], kill: signal.Signals
) -> None:
    started(namespace, tiny_base)
    pod = wait_until("train pod", lambda: train_pod(namespace), 60)
    os.kill(trainer_process(pod), kill)
    assert_recovered(finished(namespace, "tiny", 400), store, undisturbed)


def test_a_deleted_pod_resumes(namespace: Kubectl, tiny_base: str, store: Any, undisturbed: dict[str, str]) -> None:
    started(namespace, tiny_base)
    pod = wait_until("train pod", lambda: train_pod(namespace), 60)
    namespace("delete", "pod", pod["metadata"]["name"], "--wait=false")
    assert_recovered(finished(namespace, "tiny", 400), store, undisturbed)


def test_a_suspended_job_goes_on_where_it_was(
    namespace: Kubectl, tiny_base: str, store: Any, undisturbed: dict[str, str]
) -> None:
    started(namespace, tiny_base)
    namespace("patch", "finetunejob", "tiny", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    job_when(namespace, "tiny", "Suspended", lambda j: is_true(j, "Suspended"), 60)
    wait_until("no train pod", lambda: train_pod(namespace) is None, 120)
    namespace("patch", "finetunejob", "tiny", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    job = finished(namespace, "tiny", 400)
    assert is_true(job, "Complete"), job["status"]
    assert job["status"]["resumedFromStep"] >= 25
    assert adapter_files(store, job) == undisturbed


@pytest.mark.disruptive
def test_a_restarted_kubelet_does_not_disturb(namespace: Kubectl, tiny_base: str) -> None:
    started(namespace, tiny_base)
    kubelets = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if is_kubelet(path)]
    assert kubelets, "no kubelet on this machine"
    for pid in kubelets:
        os.kill(pid, signal.SIGKILL)
    subprocess.run([sys.executable, "-m", "localcluster", "up"], check=True, capture_output=True)
    job = finished(namespace, "tiny", 400)
    assert is_true(job, "Complete"), job["status"]
    assert len([a for a in job["status"]["attempts"] if a["stage"] == "Train"]) == 1
    assert "resumedFromStep" not in job["status"]


def is_kubelet(cmdline: Path) -> bool:
    """Whether a process is the local cluster's kubelet."""
    with contextlib.suppress(OSError):  # processes end while we look
        words = cmdline.read_bytes().split(b"\0")
        return b"kubelet" in words and words[0].endswith(b"kubernetes")
    return False


def test_the_object_store_may_be_away_for_two_minutes(
    namespace: Kubectl, credentials: dict[str, str], tiny_base: str, store: Any, undisturbed: dict[str, str]
) -> None:
    """The job reaches the store through a relay of its own, which is gone for two minutes: every connection breaks."""
    relay = own_relay(namespace, credentials)
    started(namespace, tiny_base)
    namespace("delete", "pod", "relay", "--grace-period=0", "--force")
    cut = time.monotonic()
    wait_until("two minutes without a store", lambda: time.monotonic() - cut > 120, 130)
    assert train_pod(namespace) is not None, "the pod waits"
    namespace.apply(relay)
    job = finished(namespace, "tiny", 400)
    assert is_true(job, "Complete"), job["status"]
    assert len([a for a in job["status"]["attempts"] if a["stage"] == "Train"]) == 1
    assert adapter_files(store, job) == undisturbed


RELAY = f"""
import asyncio

async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def relay(reader, writer):
    up_reader, up_writer = await asyncio.open_connection("{STORE}.{SYSTEM}.svc", 8333)
    await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer), return_exceptions=True)

async def main():
    async with await asyncio.start_server(relay, "0.0.0.0", 8333) as server:
        await server.serve_forever()

asyncio.run(main())
"""


def own_relay(namespace: Kubectl, credentials: dict[str, str]) -> Object:
    """A pod that passes connections on to the store, with a Service, and the Secret that points to it; the pod."""
    images = json.loads(Path(os.environ["IMAGES"]).read_text())
    relay = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "relay", "labels": {"app": "relay"}},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "relay", "image": images["operator"], "command": ["python", "-c", RELAY],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "readinessProbe": {"tcpSocket": {"port": 8333}, "periodSeconds": 1},
            }],
        },
    }  # fmt: skip
    spec = {"selector": {"app": "relay"}, "ports": [{"port": 8333}]}
    url = base64.b64encode(f"http://relay.{namespace.namespace}.svc:8333".encode()).decode()
    namespace.apply(
        relay,
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "relay"}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s3"},
            "data": credentials | {"AWS_ENDPOINT_URL": url},
        },
    )
    namespace("wait", "pod/relay", "--for=condition=Ready", "--timeout=60s")
    return relay
