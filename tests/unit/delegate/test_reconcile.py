"""A delegated job in the operator: what it refuses, which pods it makes, what its status says, and how it lets go."""

from typing import Any

import pytest

from builders import World, a_job, a_spec, a_summary, attempt, condition, message
from finetune_api.pods import JobConfig, Report, Shown, Summary, Trained
from finetune_api.reasons import Reason
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, Checkpoint, TrainerStatus
from finetune_api.v1alpha1.provider import ProviderModel, ProviderStatus
from finetune_operator.cache import Manifest
from finetune_operator.reconcile.finetunejob.checks import BEFORE_START, first_finding
from finetune_operator.reconcile.finetunejob.finalizer import FINALIZER

VERTEX = {
    "vertex": {"project": "p", "location": "europe-west4", "stagingUri": "gs://rows", "secretRef": {"name": "google"}}
}
OPENAI = {"openai": {"secretRef": {"name": "key"}}}
GEMINI = {"uri": "vertex://gemini-2.5-flash"}
GPT = {"uri": "openai://gpt-4o-mini"}
SPECS = {"vertex": {"baseModel": GEMINI, "backend": VERTEX}, "openai": {"baseModel": GPT, "backend": OPENAI}}


def a_delegated_job(backend: str = "vertex", annotations: dict[str, str] | None = None, **spec: Any) -> Manifest:
    body = a_job(**{**SPECS[backend], **spec})
    return {**body, "metadata": {**body["metadata"], "annotations": annotations or {}}}


def cancel_job_of(world: World) -> list[str]:
    return [job["metadata"]["name"] for job in world.cache.all("Job") if "-cancel-" in job["metadata"]["name"]]


def finalizers(world: World) -> list[str]:
    found: list[str] = world.get("FineTuneJob", "bot")["metadata"].get("finalizers") or []
    return found


def trained() -> str:
    model = ProviderModel(kind="Vertex", model="m", endpoint="e", base_model="gemini", job="j")
    artifact = ArtifactStatus(kind="Endpoint", uri="s3://m/endpoint", digest="sha256:" + "0" * 64, provider=model)
    status = ProviderStatus(job="j", state="Succeeded", billed_tokens=7)
    done = Trained(artifact=artifact, gate_passed=True, trained_tokens=7, steps=3, provider=status)
    return Summary(stage="Train", trained=done).model_dump_json(by_alias=True, exclude_none=True)


@pytest.mark.parametrize("backend", ["vertex", "openai"])
def test_the_pods_of_a_delegated_job(backend: str) -> None:
    world = World(a_delegated_job(backend))
    world.settle()
    prepare = world.get("Job", attempt("Prepare"))["spec"]["template"]["spec"]["containers"][0]
    assert (prepare["image"], prepare["args"][:2]) == ("trainer@sha256:1", ["finetune_trainer", "prepare"])
    world.end_pod(attempt("Prepare"), 0, a_summary("Prepare"))
    world.settle()
    pod = world.get("Job", attempt("Train"))["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert (container["image"], container["args"]) == (
        "operator@sha256:1", ["finetune_delegate", "train", "--attempt", "1"],
    )  # fmt: skip
    secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert secrets == {"out", "google" if backend == "vertex" else "key"}
    assert "env" not in container or not any("KEY" in each["name"] for each in container["env"])


def test_the_finalizer_comes_before_anything_runs_and_goes_with_success() -> None:
    world = World(a_delegated_job())
    world.carry_out(world.plan())
    assert finalizers(world) == [FINALIZER]
    assert world.cache.all("Job") == []
    world.training()
    world.end_pod(attempt("Train"), 0, trained())
    status = world.settle()
    assert condition(status, "Complete") == ("True", "Complete")
    assert status["artifact"]["provider"]["endpoint"] == "e"
    assert status["provider"] == {"job": "j", "state": "Succeeded", "billedTokens": 7}
    assert finalizers(world) == []
    assert cancel_job_of(world) == []


def test_a_job_of_this_cluster_has_no_finalizer() -> None:
    world = World(a_job())
    world.training()
    assert finalizers(world) == []


def test_the_providers_state_is_the_reason() -> None:
    world = World(a_delegated_job())
    world.training()
    waiting = ProviderStatus(job="j", state="WaitingForQuota")
    world.say(Report(trainer_status=TrainerStatus(), provider=waiting))
    status = world.settle()
    assert (status["state"], condition(status, "Running")) == ("WaitingForQuota", ("True", "WaitingForQuota"))
    assert message(status, "Running") == "The provider's job j is WaitingForQuota."
    assert status["provider"]["job"] == "j"
    assert world.events.count("Normal WaitingForQuota") == 1


def test_billed_tokens_and_checkpoints_stay_in_the_status() -> None:
    world = World(a_delegated_job())
    world.training()
    kept = [Checkpoint(step=5, uri="vertex://projects/p/endpoints/1", created_at="2026-11-25T00:00:00Z")]
    done = ProviderStatus(job="j", state="Succeeded", billed_tokens=7)
    world.say(Report(trainer_status=TrainerStatus(progress_percentage=100), checkpoints=kept, provider=done))
    status = world.settle()
    assert (status["state"], status["provider"]["billedTokens"]) == ("Evaluating", 7)
    world.end_pod(attempt("Train"), 0, trained())
    status = world.settle()
    assert [each["uri"] for each in status["checkpoints"]] == ["vertex://projects/p/endpoints/1"]
    assert (status["provider"]["billedTokens"], status["trainedTokens"]) == (7, 7)


def test_cancel_stops_the_pod_and_then_cancels_at_the_provider() -> None:
    world = World(a_delegated_job())
    world.training()
    world.patch_spec(cancel=True)
    status = world.settle()
    assert condition(status, "Failed") == ("True", "Cancelled")
    assert cancel_job_of(world) == [], "a live delegate could still submit"
    world.remove("Pod", f"{attempt('Train')}-pod")
    world.settle()
    (name,) = cancel_job_of(world)
    job = world.get("Job", name)
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][:2] == ["finetune_delegate", "cancel"]
    assert "ownerReferences" not in job["metadata"]
    assert finalizers(world) == [FINALIZER]
    world.end_job(name, "Complete")
    world.settle()
    assert finalizers(world) == []


def test_a_deletion_waits_for_the_provider() -> None:
    world = World(a_delegated_job())
    world.training()
    world.delete_job()
    world.settle()
    world.remove("Pod", f"{attempt('Train')}-pod")
    world.settle()
    (name,) = cancel_job_of(world)
    world.end_job(name, "Complete")
    world.settle()
    assert world.cache.get("FineTuneJob", "team", "bot") is None


def test_a_deletion_before_anything_was_submitted_waits_for_nothing() -> None:
    world = World(a_delegated_job())
    world.settle()
    world.delete_job()
    world.settle()
    assert world.cache.get("FineTuneJob", "team", "bot") is None
    assert cancel_job_of(world) == []


def test_an_orphan_is_let_go_at_once() -> None:
    world = World(a_delegated_job(annotations={"finetune.dev/orphan": "true"}))
    world.training()
    world.delete_job()
    world.settle()
    assert world.cache.get("FineTuneJob", "team", "bot") is None
    assert cancel_job_of(world) == []


def test_a_namespace_that_goes_is_not_held_up() -> None:
    world = World(a_delegated_job())
    world.training()
    world.on_demand["Namespace", "team"] = {"metadata": {"name": "team", "deletionTimestamp": "now"}}
    world.delete_job()
    world.settle()
    assert world.cache.get("FineTuneJob", "team", "bot") is None
    assert cancel_job_of(world) == []
    assert "Warning ProviderCancelFailed" in world.events


def test_a_deletion_in_the_foreground_takes_away_nothing_the_cancellation_needs() -> None:
    world = World(a_delegated_job())
    world.training()
    world.delete_job()
    for kind in ("ConfigMap", "Job"):  # what the job owns goes first
        for each in world.cache.all(kind):
            world.remove(kind, each["metadata"]["name"])
    world.remove("Pod", f"{attempt('Train')}-pod")
    world.settle()
    (name,) = cancel_job_of(world)
    volumes = world.get("Job", name)["spec"]["template"]["spec"]["volumes"]
    assert {volume["configMap"]["name"] for volume in volumes if "configMap" in volume} == {name}
    config = world.get("ConfigMap", name)
    assert (
        JobConfig.model_validate_json(config["data"]["job.json"]).uid
        == world.get("FineTuneJob", "bot")["metadata"]["uid"]
    )
    (owner,) = config["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Job", world.get("Job", name)["metadata"]["uid"])
    world.end_job(name, "Complete")
    world.settle()
    assert world.cache.get("FineTuneJob", "team", "bot") is None


def test_a_failed_cancellation_is_said() -> None:
    world = World(a_delegated_job())
    world.training()
    world.end_pod(attempt("Train"), 15, "")
    status = world.settle()
    assert condition(status, "Failed") == ("True", "AccessDenied")
    (name,) = cancel_job_of(world)
    world.end_job(name, "Failed")
    world.settle()
    assert "Warning ProviderCancelFailed" in world.events
    assert finalizers(world) == []


def test_an_unavailable_provider_is_tried_again() -> None:
    world = World(a_delegated_job())
    world.training()
    world.end_pod(attempt("Train"), 22, "")
    assert world.settle()["state"] == "Retrying"


def test_suspend_says_that_it_cannot() -> None:
    world = World(a_delegated_job())
    world.training()
    world.patch_spec(suspend=True)
    status = world.settle()
    assert condition(status, "Suspended") == ("False", Reason.UNSUPPORTED)
    assert condition(status, "Running") is not None


def test_a_dry_run_is_frozen_into_the_configuration() -> None:
    world = World(a_delegated_job(annotations={"finetune.dev/dry-run": "true"}))
    world.settle()
    (config,) = world.cache.all("ConfigMap")
    assert JobConfig.model_validate_json(config["data"]["job.json"]).dry_run


@pytest.mark.parametrize(("said", "message_ends"), [
    pytest.param(
        Summary(stage="Train", shown=Shown(message="POST /jobs {}")).model_dump_json(by_alias=True, exclude_none=True),
        "The request would be: POST /jobs {}", id="with its last words",
    ),
    pytest.param("", "The pod's log has the request.", id="last words lost"),
])  # fmt: skip
def test_a_dry_run_is_complete_and_made_nothing(said: str, message_ends: str) -> None:
    deploy = {"name": "bot"}
    world = World(a_delegated_job(annotations={"finetune.dev/dry-run": "true"}, deploy=deploy))
    world.training()
    world.end_pod(attempt("Train"), 0, said)
    status = world.settle()
    assert (status["state"], condition(status, "Complete")) == ("DryRun", ("True", "DryRun"))
    assert condition(status, "Finished") == ("True", "DryRun")
    assert message(status, "Complete") == f"Dry run, nothing was sent. {message_ends}"
    assert condition(status, "Failed") is None
    assert "artifact" not in status
    assert world.cache.all("AdapterDeployment") == []
    assert finalizers(world) == []
    assert cancel_job_of(world) == []


REFUSED: list[Any] = [
    pytest.param("vertex", {"baseModel": {"uri": "hf://a/b"}}, "set baseModel.uri to vertex://", id="an open model"),
    pytest.param("openai", {"baseModel": GEMINI}, "it needs backend.vertex", id="another provider's model"),
    pytest.param("vertex", {"baseModel": {**GEMINI, "revision": "1"}}, "leave them out", id="a revision"),
    pytest.param("vertex", {"method": {"cpt": {}}}, "supported with backend.vertex are sft and dpo", id="raw text"),
    pytest.param("vertex", {"method": {"sft": {"packing": True}}}, "the provider's to decide", id="packing"),
    pytest.param("vertex", {"method": {"dpo": {"lossTypes": ["Ipo"]}}}, "method.dpo.lossTypes", id="a loss"),
    pytest.param("openai", {"training": {"maxSteps": 3}}, "it takes epochs, batchSize, seed", id="steps"),
    pytest.param("openai", {"training": {"learningRate": 0.1}}, "learningRateMultiplier", id="a learning rate"),
    pytest.param("vertex", {"training": {"epochs": 1.5}}, "whole epochs, from 1 to 100", id="half an epoch"),
    pytest.param("vertex", {"adapter": {"type": "LoRA", "rank": 3}}, "1, 2, 4, 8, 16, 32", id="an adapter size"),
    pytest.param("vertex", {"adapter": {"type": "LoRA", "alpha": 3}}, "it takes type and rank", id="alpha"),
    pytest.param("vertex", {"adapter": {"type": "QLoRA"}}, "it has LoRA", id="QLoRA"),
    pytest.param("openai", {"adapter": {"type": "LoRA"}}, "leave adapter out", id="an adapter"),
    pytest.param("openai", {"evaluation": {"generation": {"temperature": 1}}}, "evaluation.generation cannot be used with backend.openai", id="sampling"),
    pytest.param(
        "vertex", {"evaluation": {"answerFormat": {"regex": {"pattern": "a|b"}}}},
        "evaluation.answerFormat cannot be used with backend.vertex; evaluation takes metrics, labels,", id="a format of answers",
    ),
    pytest.param(
        "openai", {"dataset": {**a_spec()["dataset"], "quality": {"decontaminate": True}}},
        "dataset.quality.decontaminate cannot be used with backend.openai", id="a look at every token",
    ),
    pytest.param("vertex", {"evaluation": {"metrics": ["Loss"]}}, "ExactMatch, Accuracy, MacroF1", id="a metric"),
    pytest.param(
        "vertex",
        {"evaluation": {"gate": [{"metric": "Loss", "max": 1}]}, "dataset": {**a_spec()["dataset"], "split": {"test": 0.1}}},
        "evaluation.gate on Loss cannot be decided for a delegated job", id="a gate on the loss",
    ),
    pytest.param(
        "openai", {"backend": {"openai": {**OPENAI["openai"], "metadata": {"finetune-uid": "x"}}}},
        "are the operator's", id="our own metadata",
    ),
    pytest.param(
        "vertex",
        {"backend": {"vertex": {**VERTEX["vertex"], "learningRateMultiplier": 2}}, "training": {"learningRate": 0.1}},
        "set one of them", id="two learning rates",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "spec", "says"), REFUSED)
def test_what_a_provider_does_not_take_is_refused(backend: str, spec: dict[str, Any], says: str) -> None:
    job = FineTuneJob.model_validate({"spec": a_job(**{**SPECS[backend], **spec})["spec"]})
    found = first_finding(BEFORE_START, job.spec)
    assert found is not None
    assert found.reason is Reason.UNSUPPORTED
    assert says in found.message


@pytest.mark.parametrize("backend", ["vertex", "openai"])
def test_a_plain_delegated_job_is_accepted(backend: str) -> None:
    job = FineTuneJob.model_validate({"spec": a_job(**SPECS[backend])["spec"]})
    assert first_finding(BEFORE_START, job.spec) is None


def test_a_providers_model_needs_its_backend() -> None:
    found = first_finding(BEFORE_START, FineTuneJob.model_validate({"spec": a_job(baseModel=GPT)["spec"]}).spec)
    assert found is not None
    assert found.message == "baseModel.uri openai://gpt-4o-mini is a provider's model: it needs backend.openai."
