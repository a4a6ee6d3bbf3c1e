"""An attempt of several pods has one end: that of the pod that failed by itself, or what the first one made."""

import json
from typing import Any

import pytest

from builders import World, a_job, an_error, attempt, exit_code
from finetune_api.reasons import Reason
from finetune_operator.reconcile.finetunejob.cause import ending

FAILED = {"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}}
COMPLETE = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}


def a_pod(index: int, code: int | None, said: dict[str, Any] | None = None, at: str = "10:00:00", **more: Any) -> Any:
    """A pod of an Indexed Job; without a code its container has not told its end."""
    message = json.dumps({"stage": "Train", **said}) if said is not None else ""
    ended = {"exitCode": code, "message": message, "finishedAt": f"2026-01-01T{at}Z", **more}
    state = [] if code is None else [{"name": "trainer", "state": {"terminated": ended}}]
    labels = {"batch.kubernetes.io/job-completion-index": str(index)}
    meta = {"name": f"pod-{index}", "labels": labels, "creationTimestamp": f"2026-01-01T09:00:0{index}Z"}
    status = {"phase": "Failed" if code != 0 else "Succeeded", "containerStatuses": state}
    return {"metadata": meta, "status": status}


def error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": f"{code}."}}


STOPPED = a_pod(2, 143, error("Interrupted"), "10:00:01")


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        pytest.param([a_pod(0, 20, error("NonFiniteLoss"), "10:00:09"), STOPPED], "NonFiniteLoss", id="who failed"),
        pytest.param([a_pod(0, 137, reason="OOMKilled"), STOPPED], "OutOfMemory", id="out of memory"),
        pytest.param([a_pod(0, None), STOPPED], "Infrastructure", id="a node that is gone"),
        pytest.param([a_pod(0, 137, at="10:02:00"), STOPPED], "Interrupted", id="all were stopped"),
        pytest.param([a_pod(0, 0, {}), a_pod(1, 19, error("OutOfMemory"))], "OutOfMemory", id="one had done its part"),
    ],
)
def test_the_cause(pods: list[Any], reason: str) -> None:
    for order in (pods, pods[::-1]):
        found = ending(FAILED, order)
        assert found is not None
        assert found.reason == reason


def test_the_first_ones_result_counts() -> None:
    artifact = {"kind": "Adapter", "uri": "s3://b/a", "digest": "sha256:" + "0" * 64, "manifestUri": "s3://b/m"}
    first = a_pod(0, 0, {"trained": {"artifact": artifact, "trainedTokens": 1, "gatePassed": True, "steps": 1}})
    found = ending(COMPLETE, [first, a_pod(1, 0, {}, "10:00:01")])
    assert found is not None
    assert found.summary is not None
    assert found.summary.trained is not None


def test_a_pod_that_still_seems_to_run_is_read_before_another_ones_end_is_believed() -> None:
    world = World(a_job(backend={"kubernetes": {"nodes": 2}}))
    world.training()
    job = attempt("Train")
    labels = world.get("Job", job)["spec"]["template"]["metadata"]["labels"]
    owners = [{"uid": world.get("Job", job)["metadata"]["uid"], "controller": True}]

    def node(pod: dict[str, Any]) -> dict[str, Any]:
        meta = {**pod["metadata"], "namespace": "team", "labels": labels | pod["metadata"]["labels"]}
        return {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**meta, "ownerReferences": owners}}

    world.cache.remove("Pod", world.get("Pod", f"{job}-pod"))
    running = node(a_pod(0, None))
    world.put({**running, "status": {"phase": "Running", "containerStatuses": []}})
    world.put(node(a_pod(1, 143, error("Interrupted"), "10:00:01")))
    failed = an_error("Train", Reason.NON_FINITE_LOSS)
    world.unseen.append(node(a_pod(0, exit_code(Reason.NON_FINITE_LOSS), json.loads(failed))))
    world.end_job(job, "Failed")
    assert world.settle()["attempts"][-1]["outcome"] == "NonFiniteLoss"
