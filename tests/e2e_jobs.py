"""Jobs for the end-to-end tests, and waiting for what they become."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from demo.kubectl import Kubectl, Object, condition, is_true, wait_until

LABELS = ["red", "green", "blue"]


def rows(count: int = 48) -> list[dict[str, str]]:
    """A task a tiny model can learn: the answer is the colour named in the prompt."""
    return [{"prompt": f"{LABELS[i % 3]} thing {i}\nColour:", "completion": f" {LABELS[i % 3]}"} for i in range(count)]


def jsonl(items: list[dict[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(item) + "\n" for item in items)


def data_config_map(text: str, name: str = "data") -> Object:
    """A ConfigMap with a train file."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"train.jsonl": text}}


def tiny_job(base: str, name: str = "tiny", **spec: Any) -> Object:
    """A LoRA job of a few steps on the ConfigMap ``data``; keywords replace members of the spec."""
    default = {
        "baseModel": {"uri": base, "secretRef": {"name": "s3"}},
        "dataset": {"train": {"configMap": {"name": "data", "key": "train.jsonl"}}, "split": {"test": 0.25}},
        "method": {"sft": {}},
        "adapter": {"type": "LoRA", "rank": 4},
        "training": {"maxSteps": 4, "batchSize": 4, "maxLength": 64, "checkpointEverySteps": 2},
        "output": {"uri": "s3://models/e2e", "secretRef": {"name": "s3"}},
    }
    merged = {key: value for key, value in (default | spec).items() if value is not None}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": name}, "spec": merged}


def object_when(
    kubectl: Kubectl, kind: str, name: str, what: str, seen: Callable[[Object], bool], seconds: float
) -> Object:
    """The object as soon as ``seen`` holds for it. Raises AssertionError with its status and what else is there."""

    def probe() -> Object | None:
        found = kubectl.find(kind, name)
        if found is not None:
            found.setdefault("status", {})  # nobody has looked at it yet
        return found if found is not None and seen(found) else None

    try:
        return wait_until(f"{name}: {what}", probe, seconds)
    except TimeoutError as late:
        status = json.dumps((kubectl.find(kind, name) or {}).get("status"), indent=1)
        raise AssertionError(f"{late}\n{status}\n{kubectl('get', 'pods,jobs,deployments,events')}") from late


def job_when(kubectl: Kubectl, name: str, what: str, seen: Callable[[Object], bool], seconds: float = 300) -> Object:
    """The FineTuneJob as soon as ``seen`` holds for it."""
    return object_when(kubectl, "finetunejobs.finetune.dev", name, what, seen, seconds)


@contextmanager
def fresh_namespace(cluster: Kubectl, credentials: dict[str, str]) -> Iterator[Kubectl]:
    """A namespace that enforces the restricted Pod Security Standard, with the Secret s3; gone afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    kubectl = cluster.within(name)
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "data": credentials})
    try:
        yield kubectl
    finally:
        cluster("delete", "namespace", name, "--wait=false")


def finished(kubectl: Kubectl, name: str, seconds: float = 300) -> Object:
    """The job when it is Complete or Failed."""
    return job_when(kubectl, name, "Finished", lambda job: is_true(job, "Finished"), seconds)


def failure(job: Object) -> tuple[str, str]:
    """Reason and message of a failed job."""
    seen = condition(job, "Failed")
    assert seen is not None, f"not failed: {job.get('status')}"
    assert seen["status"] == "True", f"not failed: {job.get('status')}"
    return seen["reason"], seen["message"]


def train_pod(kubectl: Kubectl) -> Object | None:
    """The running train pod."""
    pods = kubectl.list("pods", "finetune.dev/stage=train")
    return next((pod for pod in pods if pod["status"].get("phase") == "Running"), None)
