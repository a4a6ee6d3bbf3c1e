"""A trainer that is killed for its memory; apart from the other faults, so that both files run at the same time."""

import contextlib

import pytest

from demo.kubectl import CommandFailed, Kubectl, is_true, wait_until
from e2e_jobs import data_config_map, finished, job_when, jsonl, rows, tiny_job, train_pod

pytestmark = pytest.mark.e2e

LONG_ENOUGH = {"maxSteps": 120, "batchSize": 4, "maxLength": 64, "checkpointEverySteps": 10}
"""To be hit in the middle."""


def test_out_of_memory_is_named_and_retried_with_half_the_micro_batch(namespace: Kubectl, tiny_base: str) -> None:
    namespace.apply(data_config_map(jsonl(rows())), tiny_job(
        tiny_base, training=LONG_ENOUGH, backend={"kubernetes": {"resources": {"cpu": "500m", "memory": "1200Mi"}}}))  # fmt: skip
    job_when(namespace, "tiny", "first checkpoint", lambda j: bool(j.get("status", {}).get("checkpoints")), 300)
    pod = wait_until("train pod", lambda: train_pod(namespace), 60)
    # The kernel kills the largest process of the pod: grow a smaller one beside the trainer until it must choose.
    grow = "import time\nheld = []\nwhile True:\n    held.append(bytearray(1 << 22))\n    time.sleep(0.02)"
    with contextlib.suppress(CommandFailed):  # the command ends with the container
        namespace("exec", pod["metadata"]["name"], "--", "python", "-c", grow)
    job = finished(namespace, "tiny", 400)
    assert is_true(job, "Complete"), job["status"]
    first = next(attempt for attempt in job["status"]["attempts"] if attempt["stage"] == "Train")
    assert first["outcome"] == "OutOfMemory"
    assert "micro-batch" in first["message"]
