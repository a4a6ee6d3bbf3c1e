"""How fast and how cheap the operator is: 50 jobs at once, with a trainer that is done at once.

    python -m benchmarks.jobs --image <quick_trainer image> [--jobs 50]

Prints apply -> first Job and first pod (p50, p95), API writes per job over its life (Events and progress apart), and the
operator's memory before and after. Needs KUBECONFIG and the chart installed; removes its namespace at the end.
"""

import argparse
import statistics
import threading
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubernetes import client, config, watch

from demo.kubectl import Kubectl, is_true, wait_until

SYSTEM = "finetune-system"
OPERATOR = "deployment/finetune-operator"


def job(name: str, image: str) -> dict[str, Any]:
    """A minimal FineTuneJob."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "baseModel": {"uri": "s3://models/none"},
            "dataset": {"train": {"uri": "s3://data/none.jsonl"}},
            "output": {"uri": "s3://models"},
            "backend": {"kubernetes": {"image": image, "resources": {"cpu": "10m", "memory": "64Mi"}}},
        },
    }


def samples(kubectl: Kubectl) -> dict[str, float]:
    """The operator's metrics: line without value -> value."""
    with (
        kubectl.within(SYSTEM).port_forward(OPERATOR, 8081) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response,
    ):
        lines = response.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


class FirstSeen:
    """When the first child of each job was seen by a watch of our own; creationTimestamp has whole seconds only."""

    def __init__(self, listing: Any, namespace: str) -> None:
        self.at: dict[str, float] = {}
        self._watch = watch.Watch()
        self._thread = threading.Thread(target=self._run, args=(listing, namespace), daemon=True)
        self._thread.start()

    def _run(self, listing: Any, namespace: str) -> None:
        for event in self._watch.stream(
            listing, namespace=namespace, label_selector="finetune.dev/job", timeout_seconds=600
        ):
            self.at.setdefault(event["object"].metadata.labels["finetune.dev/job"], time.monotonic())


def quantiles(name: str, applied: dict[str, float], seen: dict[str, float]) -> str:
    """p50 and p95 in milliseconds."""
    waits = sorted(1000 * (seen[job] - at) for job, at in applied.items())
    return f"| apply -> {name} | {statistics.median(waits):.0f} ms | {waits[int(0.95 * len(waits))]:.0f} ms |"


def measure(kubectl: Kubectl, image: str, count: int) -> None:
    """Create the jobs, wait until all are Complete, print the table."""
    config.load_kube_config(kubectl.env["KUBECONFIG"])
    custom, namespace = client.CustomObjectsApi(), kubectl.namespace
    jobs = FirstSeen(client.BatchV1Api().list_namespaced_job, namespace)
    pods = FirstSeen(client.CoreV1Api().list_namespaced_pod, namespace)
    names = [f"bench-{i}" for i in range(count)]
    before = samples(kubectl)

    def create(name: str) -> tuple[str, float]:
        at = time.monotonic()
        custom.create_namespaced_custom_object("finetune.dev", "v1alpha1", namespace, "finetunejobs", job(name, image))
        return name, at

    started = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        applied = dict(pool.map(create, names))
    wait_until("all finished", lambda: all(is_true(j, "Finished") for j in kubectl.list("finetunejobs")), 900, 1)
    unwell = [j["metadata"]["name"] for j in kubectl.list("finetunejobs") if not is_true(j, "Complete")]
    if unwell:
        raise RuntimeError(f"not Complete: {unwell}; nothing was measured")
    elapsed = time.monotonic() - started
    after = samples(kubectl)
    print(f"| {count} jobs at once | p50 | p95 |\n|---|---|---|")
    print(quantiles("first Job", applied, jobs.at))
    print(quantiles("first pod", applied, pods.at))
    report(before, after, count, elapsed)


def report(before: dict[str, float], after: dict[str, float], count: int, elapsed: float) -> None:
    """Writes per job by kind of call, memory, time in all."""
    print(f"\nall Complete after {elapsed:.1f} s")
    for line, value in sorted(after.items()):
        grown = value - before.get(line, 0)
        if line.startswith("finetune_api_calls_total") and grown:
            print(f"{line}: {grown / count:.2f} per job")
    memory = "process_resident_memory_bytes"
    print(
        f"operator RSS: {before[memory] / 2**20:.0f} MiB idle, {after[memory] / 2**20:.0f} MiB with {count} finished jobs"
    )


def main() -> None:
    """Make a namespace, measure, remove it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True)
    parser.add_argument("--jobs", type=int, default=50)
    args = parser.parse_args()
    kubectl = Kubectl(namespace=f"bench-{uuid.uuid4().hex[:6]}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kubectl.namespace, "labels": labels}})
    try:
        measure(kubectl, args.image, args.jobs)
    finally:
        kubectl("delete", "namespace", kubectl.namespace, "--wait=false")


if __name__ == "__main__":
    main()
