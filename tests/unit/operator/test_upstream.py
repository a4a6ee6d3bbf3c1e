"""Jobs that wait for jobs: for their base model, an earlier adapter or a reward model; and what they are handed."""

import json
from typing import Any

import pytest

from builders import World, a_job, condition, message, upstream_status
from finetune_api.matrix import SAMPLING_METHODS

ARTIFACT = {"uri": "s3://models/team/base/u/model", "digest": "sha256:" + "1" * 64}


def chained(**upstream: Any) -> World:
    return World(a_job(baseModel={"jobRef": {"name": "base"}}), *([a_job("base", **upstream)] if upstream else []))


@pytest.mark.parametrize(
    ("upstream", "says", "stalled"),
    [
        pytest.param({}, "does not exist in namespace team", None, id="missing"),
        pytest.param({"status": {"state": "Training"}}, "which is Training", None, id="running"),
        pytest.param(
            {"status": upstream_status("Failed", "DataInvalid")}, "DataInvalid: why", "UpstreamFailed", id="failed"
        ),
    ],
)
def test_a_job_waits_for_the_job_it_starts_from(upstream: Any, says: str, stalled: str | None) -> None:
    world = chained(**upstream)
    status = world.settle()
    assert condition(status, "Running") == ("False", "WaitingForJob")
    assert says in status["message"]
    assert status["state"] == "WaitingForJob"
    assert condition(status, "Stalled") == (("True", stalled) if stalled else None)
    assert not [line for line in world.log if line.startswith("create")]


def test_a_dry_run_is_not_waited_for_as_it_makes_nothing() -> None:
    world = chained(status=upstream_status("Complete", "DryRun", state="DryRun"))
    status = world.settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    assert condition(status, "Stalled") == ("True", "Unsupported")
    assert "FineTuneJob base was a dry run and made nothing" in status["message"]
    world.put(a_job("base", status=upstream_status("Complete", "Complete", artifact={"kind": "Model", **ARTIFACT})))
    status = world.settle()
    assert condition(status, "Stalled") == ("False", "GoesOn")
    assert "startTime" in status


def test_a_job_cannot_start_from_itself() -> None:
    status = World(a_job(baseModel={"jobRef": {"name": "bot"}})).settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")


def test_a_finished_upstream_model_is_the_base() -> None:
    complete = upstream_status("Complete", "Complete", artifact={"kind": "Model", **ARTIFACT})
    status = chained(status=complete).settle()
    assert status["baseModel"] == {**ARTIFACT, "secretRef": {"name": "out"}, "jobUid": "base00-uid"}
    assert "startTime" in status


def test_an_upstream_adapter_is_no_base() -> None:
    complete = upstream_status("Complete", "Complete", artifact={"kind": "Adapter", **ARTIFACT})
    status = chained(status=complete).settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    assert "whole model" in message(status, "Accepted")


HELD_OUT = {"train": {"uri": "s3://data/rows.jsonl"}, "split": {"test": 0.1}}
EARLIER = {
    "initial": lambda ref: {"adapter": {"type": "LoRA", "initial": ref}},
    "previous": lambda ref: {"evaluation": {"previous": ref}, "dataset": HELD_OUT},
}


@pytest.mark.parametrize("field", EARLIER)
def test_an_adapter_of_an_earlier_job_is_waited_for_and_handed_on_by_address(field: str) -> None:
    world = World(a_job(**EARLIER[field]({"jobRef": {"name": "first"}})))
    assert "Waits for FineTuneJob first, which does not exist" in world.settle()["message"]
    world.put(a_job("first", status=upstream_status("Complete", "Complete", artifact={"kind": "Adapter", **ARTIFACT})))
    status = world.settle()
    resolved = {**ARTIFACT, "secretRef": {"name": "out"}}
    assert status[f"{field}Adapter"] == resolved
    assert "startTime" in status
    [config] = world.cache.all("ConfigMap")
    spec = json.loads(config["data"]["job.json"])["spec"]
    assert spec[{"initial": "adapter", "previous": "evaluation"}[field]][field] == resolved
    [pod] = [job["spec"]["template"]["spec"] for job in world.cache.all("Job")]
    assert "out" in json.dumps(pod["volumes"])


def rewarded(method: str) -> dict[str, Any]:
    return {"method": {method: {"rewardModel": {"jobRef": {"name": "judge"}}}}}


def a_judge(method: str) -> Any:
    complete = upstream_status("Complete", "Complete", artifact={"kind": "Adapter", **ARTIFACT})
    return a_job("judge", method={method: {}}, status=complete)


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_a_reward_model_of_an_earlier_job_is_waited_for_and_handed_on_by_address(method: str) -> None:
    world = World(a_job(**rewarded(method)))
    assert "Waits for FineTuneJob judge, which does not exist" in world.settle()["message"]
    world.put(a_judge("reward"))
    status = world.settle()
    assert status["rewardModel"] == {**ARTIFACT, "secretRef": {"name": "out"}, "jobUid": "judge0-uid"}
    [config] = world.cache.all("ConfigMap")
    assert json.loads(config["data"]["job.json"])["rewardModel"] == status["rewardModel"]


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_a_reward_model_is_a_reward_jobs(method: str) -> None:
    status = World(a_job(**rewarded(method)), a_judge("sft")).settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    said = message(status, "Accepted")
    assert (
        f"method.{method}.rewardModel.jobRef: FineTuneJob judge is of method sft; name a job of method reward" in said
    )


@pytest.mark.parametrize("field", EARLIER)
def test_a_whole_model_is_no_earlier_adapter(field: str) -> None:
    complete = upstream_status("Complete", "Complete", artifact={"kind": "Model", **ARTIFACT})
    status = World(a_job(**EARLIER[field]({"jobRef": {"name": "base"}})), a_job("base", status=complete)).settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    assert "takes an adapter" in message(status, "Accepted")


@pytest.mark.parametrize("field", EARLIER)
def test_a_job_is_not_its_own_earlier_adapter(field: str) -> None:
    status = World(a_job(**EARLIER[field]({"jobRef": {"name": "bot"}}))).settle()
    assert "names this job itself" in message(status, "Accepted")


REFERENCES: dict[str, dict[str, Any]] = {
    "baseModel.jobRef": {"baseModel": {"jobRef": {"name": "first"}}},
    "adapter.initial.jobRef": {"adapter": {"type": "LoRA", "initial": {"jobRef": {"name": "first"}}}},
    "evaluation.previous.jobRef": {"evaluation": {"previous": {"jobRef": {"name": "first"}}}, "dataset": HELD_OUT},
}
TAKES = {"baseModel.jobRef": "a whole model: a job with adapter Full"}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("Adapter", "an adapter"),
        ("Model", "a whole model"),
        ("Endpoint", "a model that lives at a provider"),
    ],
)
def test_what_was_made_instead_is_said(reference: str, kind: str, made: str) -> None:
    complete = upstream_status("Complete", "Complete", artifact={"kind": kind, **ARTIFACT})
    status = World(a_job("first", status=complete), a_job(**REFERENCES[reference])).settle()
    wanted = "Model" if reference == "baseModel.jobRef" else "Adapter"
    if kind == wanted:
        assert condition(status, "Accepted") == ("True", "Supported")
        return
    takes = TAKES.get(reference, "an adapter: a job with adapter LoRA")
    assert message(status, "Accepted").startswith(f"FineTuneJob first made {made}; {reference} takes {takes}")
