"""Bad input, as a user makes it: each ends in one clear sentence, and nothing is lost or started that should not be."""

import base64
from typing import Any

import pytest

from demo.kubectl import CommandFailed, Kubectl, condition, is_true
from e2e_jobs import data_config_map, failure, finished, job_when, jsonl, rows, tiny_job

pytestmark = pytest.mark.e2e


def stages_run(kubectl: Kubectl) -> set[str]:
    """Stages for which a Job was ever created."""
    return {job["metadata"]["labels"]["finetune.dev/stage"] for job in kubectl.list("jobs")}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        pytest.param({"epochs": 3}, 'unknown field "spec.epochs"', id="unknown field"),
        pytest.param({"training": {"maxSteps": "many"}}, "maxSteps", id="wrong type"),
        pytest.param({"method": {"sft": {}, "cpt": {}}}, "set exactly one of: sft, cpt, dpo", id="two methods"),
        pytest.param(
            {"backend": {"kubernetes": {}, "openai": {"secretRef": {"name": "key"}}}},
            "set exactly one of: kubernetes, vertex, openai",
            id="two backends",
        ),
    ],
)
def test_refused_at_apply(namespace: Kubectl, tiny_base: str, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandFailed, match=says):
        namespace.apply(tiny_job(tiny_base, **spec))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        pytest.param(
            {"method": {"reward": {}}, "adapter": {"type": "Prompt"}}, "use Full, LoRA, QLoRA", id="adapter of a method"
        ),
        pytest.param({"backend": {"openai": {"secretRef": {"name": "key"}}}}, "openai://", id="base of a backend"),
    ],
)
def test_unsupported_is_said_at_once(namespace: Kubectl, tiny_base: str, spec: dict[str, Any], says: str) -> None:
    namespace.apply(tiny_job(tiny_base, **spec))
    job = job_when(namespace, "tiny", "Accepted is decided", lambda j: condition(j, "Accepted") is not None, 20)
    accepted = condition(job, "Accepted")
    assert accepted is not None
    assert (accepted["status"], accepted["reason"]) == ("False", "Unsupported")
    assert says in accepted["message"]
    assert namespace.list("jobs") == []


BROKEN_ROWS = [
    pytest.param('{"prompt": "a"', ["line 2"], id="bad JSON"),
    pytest.param('{"prompt": "a"}', ["line 2", "completion"], id="missing field"),
    pytest.param('{"prompt": "a", "completion": ""}', ["line 2", "completion", "empty"], id="empty answer"),
]


@pytest.mark.parametrize(("broken", "says"), BROKEN_ROWS)
def test_a_broken_row_is_named(namespace: Kubectl, tiny_base: str, broken: str, says: list[str]) -> None:
    lines = jsonl(rows(8)).splitlines()
    lines[1] = broken
    namespace.apply(data_config_map("\n".join(lines) + "\n"), tiny_job(tiny_base))
    job = finished(namespace, "tiny")
    data = condition(job, "DataValidated")
    assert data is not None
    assert (data["status"], data["reason"]) == ("False", "DataInvalid")
    assert all(word in data["message"] for word in ["train.jsonl", *says]), data["message"]
    assert failure(job)[0] == "DataInvalid"
    assert stages_run(namespace) == {"prepare"}


def test_wrong_role_order_is_named(namespace: Kubectl, tiny_base: str) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    bad = {"messages": [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "hi"}]}
    namespace.apply(data_config_map(jsonl([good, bad])), tiny_job(tiny_base))
    reason, message = failure(finished(namespace, "tiny"))
    assert reason == "DataInvalid"
    assert "line 2" in message
    assert "messages" in message
    assert stages_run(namespace) == {"prepare"}


def with_source(uri: str, secret: str = "s3") -> dict[str, Any]:
    return {"dataset": {"train": {"uri": uri, "secretRef": {"name": secret}}, "split": {"test": 0.25}}}


@pytest.mark.parametrize(
    ("spec", "reason", "says"),
    [
        pytest.param(with_source("s3://data/e2e/nowhere.jsonl"), "DatasetNotFound", "s3://data/e2e/nowhere.jsonl", id="dataset"),
        pytest.param(with_source("s3://no-such-bucket/x.jsonl"), "DatasetNotFound", "no-such-bucket", id="bucket"),
        pytest.param(
            {"baseModel": {"uri": "s3://models/e2e/nowhere", "secretRef": {"name": "s3"}}},
            "ModelNotFound", "s3://models/e2e/nowhere", id="model",
        ),
        pytest.param(with_source("s3://data/x.jsonl", "absent"), "SecretNotFound", "absent", id="secret"),
        pytest.param(with_source("s3://data/x.jsonl", "wrong"), "AccessDenied", "s3://data/x.jsonl", id="wrong credentials"),
        pytest.param({"output": {"uri": "s3://no-such-bucket", "secretRef": {"name": "s3"}}}, "OutputNotWritable",
                     "no-such-bucket", id="output bucket missing"),
        pytest.param({"output": {"uri": "s3://models/e2e", "secretRef": {"name": "wrong"}}}, "OutputNotWritable",
                     "s3://models/e2e", id="output not writable"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_before_training(
    namespace: Kubectl, tiny_base: str, credentials: dict[str, str], spec: dict[str, Any], reason: str, says: str
) -> None:
    wrong = {**credentials, "AWS_SECRET_ACCESS_KEY": base64.b64encode(b"wrong").decode()}
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong"}, "data": wrong})
    namespace.apply(data_config_map(jsonl(rows())), tiny_job(tiny_base, **spec))
    job = finished(namespace, "tiny", 180)
    found, message = failure(job)
    assert (found, says in message) == (reason, True), message
    assert job["status"]["error"]["code"] == reason
    assert stages_run(namespace) == {"prepare"}
    assert len(job["status"]["attempts"]) == 1, "a retry cannot help"


def test_a_frozen_field_is_refused_after_the_start(namespace: Kubectl, tiny_base: str) -> None:
    namespace.apply(data_config_map(jsonl(rows())), tiny_job(tiny_base))
    job_when(namespace, "tiny", "started", lambda j: "startTime" in j.get("status", {}), 60)
    with pytest.raises(CommandFailed, match=r"spec\.training is frozen since the job has started"):
        namespace.apply(tiny_job(tiny_base, training={"maxSteps": 5}))
    namespace.apply(tiny_job(tiny_base, cancel=True))
    job = finished(namespace, "tiny", 120)
    assert failure(job)[0] == "Cancelled"
    assert not is_true(job, "Complete")
