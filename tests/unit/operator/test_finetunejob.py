"""The course of a FineTuneJob: what is accepted, each step up to the end, and what the user reads.

Its parts have files of their own: upstream, attempts, waiting, progress, finish.
"""

from typing import Any

import pytest

from builders import (
    PREPARE,
    TRAIN,
    World,
    a_job,
    a_summary,
    an_error,
    condition,
    ended,
    exit_code,
    message,
    upstream_status,
)
from finetune_api.reasons import Reason


def test_a_job_goes_through_all_stages() -> None:
    world = World(a_job())
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train"))
    status = world.settle()
    assert [(c["type"], c["status"], c["reason"]) for c in status["conditions"]] == [
        ("Accepted", "True", "Supported"),
        ("DataValidated", "True", "Valid"),
        ("Planned", "True", "Planned"),
        ("Running", "False", "Finished"),
        ("ArtifactStored", "True", "Stored"),
        ("Evaluated", "True", "Evaluated"),
        ("GatePassed", "True", "GatePassed"),
        ("Complete", "True", "Complete"),
        ("Finished", "True", "Complete"),
    ]
    assert world.log == [
        "create ConfigMap bot-bot000-config",
        "status FineTuneJob bot",
        f"create Job {PREPARE}",
        "status FineTuneJob bot",
        f"create Job {TRAIN}",
        "status FineTuneJob bot",
        "status FineTuneJob bot",
        "status FineTuneJob bot",
    ]
    assert world.events == [
        "Normal Accepted",
        "Normal DataValidated",
        "Normal Planned",
        "Normal Running",
        "Normal ArtifactStored",
        "Normal Evaluated",
        "Normal GatePassed",
        "Normal Complete",
    ]
    columns = {name: status[name] for name in ("state", "method", "base", "backend", "progress", "loss")}
    assert columns == {
        "state": "Complete",
        "method": "sft LoRA",
        "base": "s3://models/base",
        "backend": "kubernetes",
        "progress": "100%",
        "loss": "1.234",
    }
    assert status["trainedTokens"] == 1000
    assert [(a["stage"], a["number"], a["outcome"]) for a in status["attempts"]] == [
        ("Prepare", 1, "Succeeded"),
        ("Train", 1, "Succeeded"),
    ]


def test_nothing_is_created_before_the_configuration_is_frozen() -> None:
    world = World(a_job())
    world.carry_out(world.plan())
    assert world.log == ["create ConfigMap bot-bot000-config", "status FineTuneJob bot"]
    assert "startTime" in world.get("FineTuneJob", "bot")["status"]


def test_a_spec_changed_between_freezing_and_starting_is_frozen_again() -> None:
    world = World(a_job())
    world.carry_out(world.plan(), calls=1)  # the ConfigMap is written, startTime is not
    world.patch_spec(training={"maxSteps": 7})
    world.settle()
    config = world.get("ConfigMap", "bot-bot000-config")
    assert '"maxSteps":7' in config["data"]["job.json"]


def test_no_train_pod_before_the_data_is_valid() -> None:
    world = World(a_job())
    world.settle()
    world.end_pod(
        PREPARE, exit_code(Reason.DATA_INVALID), an_error("Prepare", Reason.DATA_INVALID, "rows.jsonl line 2")
    )
    status = world.settle()
    assert condition(status, "DataValidated") == ("False", "DataInvalid")
    assert message(status, "DataValidated") == "rows.jsonl line 2"
    assert [condition(status, kind) for kind in ("Failed", "Finished", "Stalled")] == [("True", "DataInvalid")] * 3
    assert status["error"] == {"code": "DataInvalid", "message": "rows.jsonl line 2"}
    assert status["state"] == "Failed"
    assert [line for line in world.log if line.startswith("create Job")] == [f"create Job {PREPARE}"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        pytest.param(
            {"backend": {"openai": {"secretRef": {"name": "key"}}}}, "set baseModel.uri to openai://", id="backend"
        ),
        pytest.param(
            {"method": {"cpt": {}}, "evaluation": {"metrics": ["ExactMatch"]}},
            "its metrics are Loss, Perplexity",
            id="metrics",
        ),
        pytest.param(
            {"evaluation": {"gate": [{"metric": "Loss", "max": 1}]}}, "set dataset.test", id="gate without rows"
        ),
        pytest.param({"method": {"reward": {}}, "deploy": {"name": "x"}}, "one that scores it", id="deploy a head"),
        pytest.param({"adapter": {"type": "Full"}, "deploy": {"name": "x"}}, "leave deploy out", id="deploy a model"),
        pytest.param(
            {"deploy": {"name": "x", "template": {"server": {"baseModel": {"uri": "s3://b/c"}}}}},
            "leave it out",
            id="deploy with a base",
        ),
    ],
)
def test_what_is_unsupported_is_refused_with_a_sentence(spec: Any, says: str) -> None:
    world = World(a_job(**spec))
    status = world.settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    assert says in message(status, "Accepted")
    assert condition(status, "Stalled") == ("True", "Unsupported")
    assert status["state"] == "Unsupported"
    assert world.log == ["status FineTuneJob bot"]


def test_a_corrected_spec_goes_on() -> None:
    world = World(a_job(adapter={"type": "Full"}, deploy={"name": "x"}))
    world.settle()
    world.patch_spec(adapter={"type": "LoRA"})
    status = world.settle()
    assert condition(status, "Accepted") == ("True", "Supported")
    assert condition(status, "Stalled") == ("False", "GoesOn")
    assert f"create Job {PREPARE}" in world.log


ALLOWED = {"metadata": {"annotations": {"finetune.dev/allow": "true"}}}


@pytest.mark.parametrize(
    ("account", "reason"),
    [
        pytest.param(None, "NotAllowed", id="missing"),
        pytest.param({"metadata": {}}, "NotAllowed", id="without the annotation"),
        pytest.param(ALLOWED, "Supported", id="allowed"),
    ],
)
def test_a_service_account_must_allow_it(account: Any, reason: str) -> None:
    world = World(a_job(backend={"kubernetes": {"serviceAccountName": "runner"}}))
    world.on_demand["ServiceAccount", "runner"] = account
    found = condition(world.settle(), "Accepted")
    assert found is not None
    assert found[1] == reason


def test_an_object_of_another_version_is_said_to_be_unreadable() -> None:
    world = World(a_job(training={"maxSteps": "many"}))
    status = world.settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    assert "spec.training.maxSteps" in message(status, "Accepted")
    assert status["observedGeneration"] == 1


def test_a_batch_left_out_and_a_tracker_that_failed_are_told_of() -> None:
    world = World(a_job())
    world.training()
    skipped, tracker = "the batch of step 3 was left out", "tracking.wandb failed: Invalid project name"
    world.end_pod(TRAIN, 0, a_summary("Train", tracking_error=tracker, skipped_batch=skipped))
    status = world.settle()
    assert condition(status, "Complete") == ("True", "Complete")
    assert (status["skippedBatch"], status["trackingError"]) == (skipped, tracker)
    assert status["message"] == f"Adapter stored at s3://models/team/bot/u/adapter; {skipped}; {tracker}"


def test_a_learning_rate_that_was_found_replaces_the_usual_one_in_the_plan() -> None:
    world = World(a_job())
    world.training()
    found = {"field": "training.learningRate", "value": "0.00031", "reason": "a tenth of 0.0031"}
    before = world.get("FineTuneJob", "bot")["status"]["plan"]["choices"]
    world.end_pod(TRAIN, 0, a_summary("Train", learning_rate=found))
    after = world.settle()["plan"]["choices"]
    assert after == [found if choice["field"] == found["field"] else choice for choice in before]
    assert found in after


def test_a_failed_gate_keeps_the_artifact() -> None:
    world = World(a_job(deploy={"name": "live"}))
    world.training()
    status = ended(world, "Train", (0, a_summary("Train", gate_passed=False), ""))
    assert condition(status, "GatePassed") == ("False", "GateFailed")
    assert condition(status, "Failed") == ("True", "GateFailed")
    assert condition(status, "ArtifactStored") == ("True", "Stored")
    assert status["artifact"]["kind"] == "Adapter"
    assert world.cache.all("AdapterDeployment") == []
    assert len(status["attempts"]) == 2, "a failed gate is never retried"


def test_transition_times_move_only_when_a_status_flips() -> None:
    world = World(a_job(baseModel={"jobRef": {"name": "base"}}))
    first = world.settle()["conditions"]
    world.wait(30)
    world.put(a_job("base", status=upstream_status("Failed", "Cancelled")))
    second = world.settle()["conditions"]
    before = {each["type"]: each["lastTransitionTime"] for each in first}
    after = {each["type"]: each["lastTransitionTime"] for each in second}
    assert {kind: after[kind] for kind in before} == before
    world.wait(30)
    assert world.settle()["conditions"] == second
