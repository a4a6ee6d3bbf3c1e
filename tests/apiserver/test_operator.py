"""The operator's process on a real API server: killed at every stage, cut off, told what is untrue, given many jobs at once."""

from pathlib import Path

import pytest

from builders import a_job, a_report, a_summary
from demo.kubectl import condition, is_true, wait_until
from finetune_api import pods
from operator_process import NOWHERE, Line, Stage, calls

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
    bodies = []
    for number in range(50):
        body = a_job(f"job-{number}", backend=NOWHERE)
        bodies.append({**body, "apiVersion": f"{stage.group}/v1alpha1", "metadata": {"name": f"job-{number}"}})
    stage.kubectl.apply(*bodies)
    wait_until("50 Jobs", lambda: len(stage.kubectl.list("jobs")) == 50, 120)
