"""Pods that a real cluster kills, deletes or does not let in, and what becomes of their job."""

import pytest

from builders import a_summary
from demo.kubectl import condition, is_true
from operator_process import Stage

pytestmark = pytest.mark.apiserver


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
