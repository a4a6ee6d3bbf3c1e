"""The course of a FineTuneJob: each step, each cause of a failure, and what the user reads."""

import json
from typing import Any

import pytest

from builders import World, a_job, a_report, a_summary, an_error, attempt, condition, exit_code, message
from finetune_api.matrix import SAMPLING_METHODS
from finetune_api.pods import Report
from finetune_api.reasons import RETRYABLE, Reason
from finetune_api.v1alpha1.finetunejob_status import TrainerStatus
from finetune_api.v1alpha1.provider import ProviderStatus
from finetune_operator.reconcile.finetunejob.draft import timestamp

PREPARE, TRAIN, COLLECT = attempt("Prepare"), attempt("Train"), attempt("Collect")


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


# jobs that wait for jobs


def chained(**upstream: Any) -> World:
    return World(a_job(baseModel={"jobRef": {"name": "base"}}), *([a_job("base", **upstream)] if upstream else []))


def upstream_status(kind: str, reason: str, **more: Any) -> dict[str, Any]:
    time = {"lastTransitionTime": "2026-11-23T11:00:00Z"}
    return {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": "why", **time}], **more}


ARTIFACT = {"uri": "s3://models/team/base/u/model", "digest": "sha256:" + "1" * 64}


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


EARLIER = {
    "initial": lambda ref: {"adapter": {"type": "LoRA", "initial": ref}},
    "previous": lambda ref: {"evaluation": {"previous": ref}},
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


# attempts


def ended(world: World, stage: str, outcome: tuple[int, str, str], number: int = 1) -> dict[str, Any]:
    code, text, reason = outcome
    world.end_pod(attempt(stage, number), code, text, reason)
    return world.settle()


NOT_RETRYABLE = [
    reason
    for reason in Reason
    if reason in (Reason.CONFIG_INVALID, Reason.DATASET_NOT_FOUND, Reason.MODEL_NOT_FOUND, Reason.SECRET_NOT_FOUND,
                  Reason.ACCESS_DENIED, Reason.OUTPUT_NOT_WRITABLE, Reason.ARTIFACT_CORRUPT, Reason.NON_FINITE_LOSS)
]  # fmt: skip


@pytest.mark.parametrize("reason", NOT_RETRYABLE)
@pytest.mark.parametrize("summary", [True, False], ids=["with summary", "by exit code"])
def test_a_failure_that_no_retry_can_cure_ends_the_job_at_once(reason: Reason, summary: bool) -> None:
    world = World(a_job())
    world.training()
    status = ended(world, "Train", (exit_code(reason), an_error("Train", reason) if summary else "", "Error"))
    assert condition(status, "Failed") == ("True", reason)
    assert len(status["attempts"]) == 2


@pytest.mark.parametrize("reason", sorted(RETRYABLE))
def test_a_retryable_failure_is_tried_again_until_max_retries(reason: Reason) -> None:
    world = World(a_job(maxRetries=2))
    world.training()
    for number in (1, 2):
        status = ended(world, "Train", (exit_code(reason), an_error("Train", reason), "Error"), number)
        assert status["state"] == "Retrying", "it waits before the next attempt"
        world.wait(60)
        assert world.settle()["state"] == "Starting"
    status = ended(world, "Train", (exit_code(reason), an_error("Train", reason), "Error"), 3)
    assert condition(status, "Failed") == ("True", reason)
    assert "maxRetries 2 is used up" in status["error"]["message"]
    assert [a["outcome"] for a in status["attempts"] if a["stage"] == "Train"] == [reason] * 3


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        pytest.param((137, "", "OOMKilled"), "OutOfMemory", id="an OOM kill is named as such"),
        pytest.param((137, "", "Error"), "Interrupted", id="SIGKILL"),
        pytest.param((143, "", "Error"), "Interrupted", id="SIGTERM"),
        pytest.param((143, an_error("Train", Reason.INTERRUPTED), "Error"), "Interrupted", id="SIGTERM with summary"),
        pytest.param((99, "what", "Error"), "InternalError", id="an unknown code"),
        pytest.param((128, "no such file", "StartError"), "InternalError", id="the container cannot start"),
    ],
)
def test_causes_are_read_from_the_container(outcome: tuple[int, str, str], name: str) -> None:
    world = World(a_job())
    world.training()
    status = ended(world, "Train", outcome)
    assert status["attempts"][-1]["outcome"] == name
    assert status["attempts"][-1]["counts"] == (name != "Interrupted")


def test_out_of_memory_halves_the_micro_batch_and_says_so() -> None:
    world = World(a_job())
    world.training()
    for number, divisor in ((1, 2), (2, 4)):
        status = ended(world, "Train", (137, "", "OOMKilled"), number)
        assert "halves the micro-batch" in status["attempts"][-1]["message"]
        world.wait(60)
        status = world.settle()
        arguments = world.get("Job", attempt("Train", number + 1))["spec"]["template"]["spec"]["containers"][0]["args"]
        assert arguments == [
            "finetune_trainer",
            "train",
            "--attempt",
            str(number + 1),
            "--micro-batch-divisor",
            str(divisor),
        ]
        assert f"divided by {divisor}" in message(status, "Running")


@pytest.mark.parametrize("lose", ["pod", "job"])
def test_a_lost_pod_is_not_the_jobs_fault_but_bounded(lose: str) -> None:
    world = World(a_job(maxRetries=0))
    world.training()
    for number in range(1, 7):
        world.run_pod(attempt("Train", number))
        if lose == "pod":
            world.lose_pod(attempt("Train", number))
        else:
            world.remove("Job", attempt("Train", number))
            pod = world.cache.get("Pod", "team", f"{attempt('Train', number)}-pod")
            assert pod is not None
            world.cache.remove("Pod", pod)
        status = world.settle()
        assert status["attempts"][-1]["outcome"] == "Infrastructure"
        world.wait(200)
        status = world.settle()
    assert condition(status, "Failed") == ("True", "Infrastructure")
    assert "more than 5 times" in status["error"]["message"]


def test_no_new_attempt_while_an_old_pod_is_alive() -> None:
    world = World(a_job())
    world.training()
    world.remove("Job", TRAIN)  # its pod still runs, marked for deletion
    world.wait(300)
    status = world.settle()
    assert status["state"] == "Retrying"
    assert "Waits until pod" in status["message"]
    pod = world.get("Pod", f"{TRAIN}-pod")
    world.cache.remove("Pod", pod)
    world.wait(10)
    assert world.settle()["state"] == "Starting"


def test_an_attempt_created_and_not_written_down_is_taken_up() -> None:
    world = World(a_job())
    world.carry_out(world.plan())
    world.carry_out(world.plan(), calls=1)  # the Job is created, and the operator dies
    world.run_pod(PREPARE)
    status = world.settle()
    assert status["state"] == "Preparing"
    assert [(a["stage"], a["number"]) for a in status["attempts"]] == [("Prepare", 1)]
    assert world.log.count(f"create Job {PREPARE}") == 1


def test_an_attempt_that_was_never_written_down_leaves_its_pod_time_to_end() -> None:
    world = World(a_job())
    world.carry_out(world.plan())
    world.carry_out(world.plan(), calls=1)  # the Job is created, and the operator dies
    world.run_pod(PREPARE)
    world.remove("Job", PREPARE)  # its pod still runs, marked for deletion
    status = world.settle()
    assert "Waits until pod" in status["message"]
    world.cache.remove("Pod", world.get("Pod", f"{PREPARE}-pod"))
    world.settle()
    assert world.log.count(f"create Job {PREPARE}") == 2


def test_a_lost_summary_of_training_is_collected() -> None:
    world = World(a_job())
    world.training()
    world.cache.remove("Pod", world.get("Pod", f"{TRAIN}-pod"))
    world.end_job(TRAIN, "Complete")
    status = world.settle()
    assert f"create Job {COLLECT}" in world.log
    world.run_pod(COLLECT)
    assert world.settle()["state"] == "Collecting"
    world.end_pod(COLLECT, 0, a_summary("Collect"))
    status = world.settle()
    assert condition(status, "Complete") == ("True", "Complete")


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


def test_a_pod_seen_later_than_its_jobs_end_is_not_lost() -> None:
    world = World(a_job())
    world.settle()
    world.end_pod(PREPARE, 0, a_summary("Prepare"))
    pod = world.get("Pod", f"{PREPARE}-pod")
    world.cache.remove("Pod", pod)
    world.unseen.append(pod)
    assert condition(world.settle(), "Planned") == ("True", "Planned")


def test_an_image_that_says_nothing_is_not_asked_for_ever() -> None:
    world = World(a_job(maxRetries=1))
    world.settle()
    for number in (1, 2):
        status = ended(world, "Prepare", (0, "", ""), number)
        world.wait(60)
        status = world.settle()
    assert condition(status, "Failed") == ("True", "InternalError")
    assert "pod contract" in status["error"]["message"]


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


# a pod that does not start


def waiting(reason: str) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": "back-off " * 150}}


def place(world: World, job: str, reason: str) -> None:
    """A node takes the Job's pod, and cannot pull its image."""
    pod = world.run_pod(job, waiting(reason), "Pending")
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(world.now)}
    world.put({**pod, "status": {**pod["status"], "conditions": [placed]}})


def test_an_image_that_cannot_be_pulled_ends_the_job_after_a_while() -> None:
    world = World(a_job())
    world.settle()
    place(world, PREPARE, "ImagePullBackOff")
    status = world.settle()
    assert condition(status, "DataValidated") == ("Unknown", "ImagePullBackOff")
    world.wait(130)
    status = world.settle()
    assert condition(status, "Failed") == ("True", "ImagePullFailed")
    assert f"delete Job {PREPARE}" in world.log
    assert len(status["attempts"][-1]["message"]) == 1024


def test_a_queue_for_a_node_is_no_failure_of_the_image() -> None:
    world = World(a_job())
    world.prepared()
    world.wait(3600)
    place(world, TRAIN, "ErrImagePull")
    status = world.settle()
    assert condition(status, "Running") == ("False", "ErrImagePull")
    world.wait(119)
    assert condition(world.settle(), "Failed") is None
    world.wait(2)
    assert condition(world.settle(), "Failed") == ("True", "ImagePullFailed")


def test_warnings_of_job_and_pod_are_read_after_20_s() -> None:
    world = World(a_job())
    world.prepared()
    uid = world.get("Job", TRAIN)["metadata"]["uid"]
    warning = {"reason": "FailedCreate", "message": "exceeded quota", "involvedObject": {"kind": "Job"}, "metadata": {}}
    world.on_demand["Event", uid] = [warning]
    assert "exceeded quota" not in message(world.settle(), "Running")
    world.wait(21)
    status = world.settle()
    assert condition(status, "Running") == ("False", "FailedCreate")
    assert message(status, "Running") == "Job: exceeded quota"
    assert status["state"] == "Starting"


UNHEARD_OF = "No nodes! (0/3)"
"""Nothing a condition can have as its reason."""


def unscheduled(reason: str) -> dict[str, Any]:
    message = "0/3 nodes are available"
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        pytest.param({"containerStatuses": [
            {"name": "trainer", "image": "trainer", "state": waiting(UNHEARD_OF)},
        ]}, "Image trainer: back-off", id="a container runtime's"),
        pytest.param(unscheduled(UNHEARD_OF), "0/3 nodes are available", id="a scheduler's"),
    ],
)  # fmt: skip
def test_a_word_that_can_be_no_reason_is_said_in_the_sentence(state: dict[str, Any], says: str) -> None:
    world = World(a_job())
    world.prepared()
    pod = world.run_pod(TRAIN)
    world.put({**pod, "status": {"phase": "Pending", **state}})
    status = world.settle()
    assert condition(status, "Running") == ("False", "NotStarting")
    assert message(status, "Running").startswith(f"{UNHEARD_OF}: {says}")


@pytest.mark.parametrize("reason", [{"reason": UNHEARD_OF}, {}], ids=["no word for a reason", "none at all"])
def test_an_events_reason_need_be_none_of_ours(reason: dict[str, str]) -> None:
    world = World(a_job())
    world.prepared()
    warning = {**reason, "message": "denied", "involvedObject": {"kind": "Job"}, "metadata": {}}
    world.on_demand["Event", world.get("Job", TRAIN)["metadata"]["uid"]] = [warning]
    world.wait(21)
    status = world.settle()
    assert condition(status, "Running") == ("False", "NotStarting")
    assert message(status, "Running").endswith("Job: denied")


def test_a_providers_state_need_be_none_of_ours() -> None:
    world = World(a_job())
    world.training()
    world.say(Report(trainer_status=TrainerStatus(), provider=ProviderStatus(job="j", state=UNHEARD_OF)))
    status = world.settle()
    assert condition(status, "Running") == ("True", "AtProvider")
    assert message(status, "Running") == f"{UNHEARD_OF}: The provider's job j is {UNHEARD_OF}."
    assert "Normal AtProvider" in world.events


# progress


def test_progress_is_shown_and_throttled() -> None:
    world = World(a_job())
    world.training()
    world.say(a_report(10, 2.0))
    status = world.settle()
    assert (status["progress"], status["loss"], status["eta"]) == ("10%", "2.000", "12m")
    world.wait(2)
    world.say(a_report(11, 1.9))
    plan = world.plan()
    assert plan.requeue_after == pytest.approx(3)
    assert not world.carry_out(plan), "not written yet"
    world.wait(3)
    assert world.settle()["progress"] == "11%"
    world.wait(5)
    world.say(a_report(100, 1.0, eta=0))
    assert world.settle()["state"] == "Evaluating"


def test_what_a_trainer_warns_of_is_shown_until_it_is_over_and_told_once() -> None:
    world = World(a_job())
    world.training()
    warning = "The checkpoint of step 4 is not there yet."
    world.say(a_report(10, warning=warning))
    (event,) = world.plan().events
    assert (event.type, event.reason, event.message) == ("Warning", "TrainingWarning", warning)
    assert warning in world.settle()["message"]
    world.wait(5)
    world.say(a_report(11, warning=warning))
    assert not world.plan().events
    world.settle()
    world.wait(5)
    world.say(a_report(12))
    assert warning not in world.settle()["message"]


def test_a_report_from_before_the_attempt_is_ignored() -> None:
    world = World(a_job())
    world.settle()
    world.say(a_report(99))
    world.wait(10)
    assert "progress" not in world.training()


# from outside


def test_suspending_stops_the_pod_and_resuming_goes_on() -> None:
    world = World(a_job())
    world.training()
    world.patch_spec(suspend=True)
    status = world.settle()
    assert condition(status, "Suspended") == ("True", "Suspended")
    assert f"delete Job {TRAIN}" in world.log
    assert "is committing a checkpoint" in status["message"]
    world.cache.remove("Pod", world.get("Pod", f"{TRAIN}-pod"))
    status = world.settle()
    assert status["state"] == "Suspended"
    assert "is committing" not in status["message"]
    world.patch_spec(suspend=False)
    status = world.settle()
    assert condition(status, "Suspended") == ("False", "Resumed")
    assert world.log[-2:] == [f"create Job {attempt('Train', 2)}", "status FineTuneJob bot"]
    world.run_pod(attempt("Train", 2))
    world.say(a_report(50, 1.0, step=12))
    status = world.settle()
    assert status["resumedFromStep"] == 12
    assert "resumed from step 12" in message(status, "Running")


def test_a_job_created_suspended_is_prepared_and_not_trained() -> None:
    world = World(a_job(suspend=True))
    status = world.prepared()
    assert condition(status, "Planned") == ("True", "Planned")
    assert condition(status, "Suspended") == ("True", "Suspended")
    assert not [line for line in world.log if "train" in line]


def test_a_pod_that_finished_while_being_suspended_counts() -> None:
    world = World(a_job())
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train"))
    world.patch_spec(suspend=True)
    assert condition(world.settle(), "Complete") == ("True", "Complete")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"cancel": True}, "Cancelled", id="cancelled"),
        pytest.param({"activeDeadlineSeconds": 60}, "DeadlineExceeded", id="too late"),
    ],
)
def test_an_end_from_outside_stops_the_pods(spec: Any, reason: str) -> None:
    world = World(a_job())
    world.training()
    world.patch_spec(**spec)
    world.wait(61)
    status = world.settle()
    assert condition(status, "Failed") == ("True", reason)
    assert status["attempts"][-1]["outcome"] == reason
    assert f"delete Job {TRAIN}" in world.log


@pytest.mark.parametrize("lost", [False, True], ids=["with its summary", "with its summary lost"])
def test_what_was_trained_before_the_deadline_counts_though_it_is_seen_later(lost: bool) -> None:
    world = World(a_job(activeDeadlineSeconds=60))
    world.training()
    world.end_pod(TRAIN, 0, "" if lost else a_summary("Train"))
    world.wait(61)
    status = world.settle()
    if lost:
        world.end_pod(COLLECT, 0, a_summary("Collect"))
        status = world.settle()
    assert condition(status, "Complete") == ("True", "Complete")


@pytest.mark.parametrize(("rows", "said"), [(2, "halves the micro-batch"), (1, "one row cannot be halved")])
def test_an_attempt_that_ran_out_of_memory_says_what_the_next_one_does(rows: int, said: str) -> None:
    world = World(a_job(training={"microBatchSize": rows}))
    world.training()
    world.end_pod(TRAIN, 137, "", "OOMKilled")
    assert said in world.settle()["attempts"][-1]["message"]


def test_a_failure_seen_after_the_deadline_is_not_followed_by_another_attempt() -> None:
    world = World(a_job(activeDeadlineSeconds=60))
    world.training()
    world.end_pod(TRAIN, 137, "", "OOMKilled")
    world.wait(61)
    status = world.settle()
    assert condition(status, "Failed") == ("True", "DeadlineExceeded")
    assert status["attempts"][-1]["outcome"] == "OutOfMemory"
    world.wait(600)
    world.settle()
    assert f"create Job {attempt('Train', 2)}" not in world.log


def test_a_cancelled_job_deploys_nothing_though_it_has_just_been_trained() -> None:
    world = World(a_job(deploy={"name": "live"}))
    world.training()
    world.end_pod(TRAIN, 0, a_summary("Train"))
    world.patch_spec(cancel=True)
    assert condition(world.settle(), "Failed") == ("True", "Cancelled")
    assert world.cache.all("AdapterDeployment") == []


def test_a_job_that_never_started_can_be_cancelled() -> None:
    world = World(a_job(adapter={"type": "DoRA"}, cancel=True))
    assert condition(world.settle(), "Failed") == ("True", "Cancelled")


def test_an_expired_job_is_deleted_and_its_deployment_stays() -> None:
    world = World(a_job(ttlSecondsAfterFinished=60, deploy={"name": "live"}))
    world.training()
    ended(world, "Train", (0, a_summary("Train"), ""))
    assert world.plan().requeue_after == pytest.approx(60)
    world.wait(61)
    world.settle()
    assert world.log[-1] == "delete FineTuneJob bot"
    assert [body["metadata"]["name"] for body in world.cache.all("AdapterDeployment")] == ["live"]
    assert world.cache.all("Job") == []


# deploy


def test_deploy_creates_once_and_without_an_owner() -> None:
    world = World(a_job(deploy={"name": "live", "template": {"traffic": {"model": "bot-v1"}}}))
    world.training()
    status = ended(world, "Train", (0, a_summary("Train"), ""))
    body = world.get("AdapterDeployment", "live")
    assert body["spec"] == {"adapter": {"jobRef": {"name": "bot"}}, "traffic": {"model": "bot-v1"}}
    assert "ownerReferences" not in body["metadata"]
    assert condition(status, "DeployConflict") == ("False", "Created")
    world.remove("AdapterDeployment", "live")
    world.settle()
    assert world.cache.all("AdapterDeployment") == [], "its owner deleted it"


def test_a_deployment_of_another_is_left_alone() -> None:
    other = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "AdapterDeployment",
        "metadata": {"name": "live", "namespace": "team"},
        "spec": {"adapter": {"jobRef": {"name": "other"}}},
    }
    world = World(a_job(deploy={"name": "live"}), other)
    world.training()
    status = ended(world, "Train", (0, a_summary("Train"), ""))
    assert condition(status, "Complete") == ("True", "Complete")
    assert condition(status, "DeployConflict") == ("True", "AlreadyExists")
    world.remove("AdapterDeployment", "live")
    assert condition(world.settle(), "DeployConflict") == ("False", "Created")


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
