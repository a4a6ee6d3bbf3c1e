"""Faults during training: each is survived, status says so, and the result is as if nothing had happened."""

import json
from typing import Any

import pytest
from e2e_jobs import data_config_map, finished, job_when, jsonl, rows, tiny_job

from demo.kubectl import Kubectl, Object, is_true, wait_until

pytestmark = pytest.mark.e2e

# Long enough to be hit in the middle on two busy cores, with a checkpoint every few seconds.
LONG = {"maxSteps": 150, "batchSize": 4, "maxLength": 64, "checkpointEverySteps": 10, "seed": 7}


def train_pod(kubectl: Kubectl) -> Object | None:
    """The running train pod."""
    pods = kubectl.list("pods", "finetune.dev/stage=train")
    return next((pod for pod in pods if pod["status"].get("phase") == "Running"), None)


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
def undisturbed(cluster: Kubectl, credentials: dict[str, str], store: Any, tiny_base: str) -> dict[str, str]:
    """Weights of the same job when nobody disturbs it."""
    name = "e2e-undisturbed"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    kubectl = cluster.within(name)
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "data": credentials})
    kubectl.apply(data_config_map(jsonl(rows())), tiny_job(tiny_base, training=LONG))
    job = finished(kubectl, "tiny", 400)
    assert is_true(job, "Complete"), job["status"]
    files = adapter_files(store, job)
    cluster("delete", "namespace", name, "--wait=false")
    assert files
    return files


def assert_recovered(job: Object, store: Any, undisturbed: dict[str, str]) -> None:
    """Complete after a second attempt that went on from a checkpoint, with the undisturbed run's weights."""
    assert is_true(job, "Complete"), job["status"]
    train = [attempt for attempt in job["status"]["attempts"] if attempt["stage"] == "Train"]
    assert len(train) >= 2, train
    assert train[0]["outcome"] != "Succeeded"
    assert job["status"]["resumedFromStep"] >= 10
    assert adapter_files(store, job) == undisturbed


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_a_killed_trainer_resumes(
    namespace: Kubectl, tiny_base: str, store: Any, undisturbed: dict[str, str], signal: str
) -> None:
    started(namespace, tiny_base)
    pod = wait_until("train pod", lambda: train_pod(namespace), 60)
    # PID 1 ignores a KILL from its own namespace; its child, which trains, does not.
    script = f"import os,signal; [os.kill(int(p), signal.SIG{signal}) for p in os.listdir('/proc') if p.isdigit() and int(p) not in (os.getpid(), 1)]; os.kill(1, signal.SIG{signal})"
    namespace("exec", pod["metadata"]["name"], "--", "python", "-c", script)
    assert_recovered(finished(namespace, "tiny", 400), store, undisturbed)


def test_a_deleted_pod_resumes(namespace: Kubectl, tiny_base: str, store: Any, undisturbed: dict[str, str]) -> None:
    started(namespace, tiny_base)
    pod = wait_until("train pod", lambda: train_pod(namespace), 60)
    namespace("delete", "pod", pod["metadata"]["name"], "--wait=false")
    assert_recovered(finished(namespace, "tiny", 400), store, undisturbed)
