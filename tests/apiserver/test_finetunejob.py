"""A FineTuneJob's course on a real API server: the operator is killed at every stage, pods and Jobs are lost, users change their mind."""

import pytest

from builders import a_summary
from demo.kubectl import condition, is_true, wait_until
from operator_process import Stage, calls

pytestmark = pytest.mark.apiserver


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
