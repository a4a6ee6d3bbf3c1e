"""A FineTuneJob on the cluster as its user meets it: the real trainer, kubectl's columns and waits, a dying operator."""

import json
from typing import Any

import pytest

from demo.kubectl import Kubectl, is_true, wait_until
from e2e_jobs import LABELS, data_config_map, failure, finished, job_when, jsonl, rows, tiny_job

pytestmark = pytest.mark.e2e

SYSTEM = "finetune-system"


def test_one_yaml_becomes_a_stored_adapter(namespace: Kubectl, tiny_base: str, store: Any) -> None:
    namespace.apply(data_config_map(jsonl(rows())), tiny_job(tiny_base))
    namespace("wait", "finetunejob/tiny", "--for=condition=Complete", "--timeout=300s")
    namespace("wait", "finetunejob/tiny", "--for=condition=Finished", "--timeout=1s")
    header, line = namespace("get", "finetunejobs").splitlines()
    assert header.split() == ["NAME", "METHOD", "STATE", "PROGRESS", "LOSS", "ETA", "AGE"]
    assert line.split()[:5] == ["tiny", "sft", "LoRA", "Complete", "100%"]
    status = namespace.get("finetunejob", "tiny")["status"]
    bucket, _, key = status["artifact"]["uri"].removeprefix("s3://").partition("/")
    manifest = json.loads(store.get_object(Bucket=bucket, Key=f"{key}/manifest.json")["Body"].read())
    assert "adapter_model.safetensors" in {file["path"] for file in manifest["files"]}
    assert {"Loss", "ExactMatch"} <= set(status["evaluation"]["tuned"])
    assert status["trainedTokens"] > 0
    assert status["plan"]["choices"], "what the spec left out is shown with its reason"
    reasons = [
        event["reason"] for event in namespace.list("events") if event["involvedObject"]["kind"] == "FineTuneJob"
    ]
    assert sorted(reasons) == sorted(set(reasons)), "each event once"
    assert {"Accepted", "DataValidated", "Planned", "Running", "ArtifactStored", "Evaluated", "Complete"} <= set(
        reasons
    )


def test_two_pods_train_one_adapter(namespace: Kubectl, tiny_base: str) -> None:
    job = tiny_job(tiny_base, backend={"kubernetes": {"nodes": 2}})
    namespace.apply(data_config_map(jsonl(rows())), job)
    namespace("wait", "finetunejob/tiny", "--for=condition=Complete", "--timeout=400s")
    status = namespace.get("finetunejob", "tiny")["status"]
    assert status["artifact"]["kind"] == "Adapter"
    train = [each for each in namespace.list("jobs") if each["metadata"]["labels"]["finetune.dev/stage"] == "train"]
    assert [(each["spec"]["completions"], each["status"]["succeeded"]) for each in train] == [(2, 2)]
    assert train[0]["metadata"]["name"] in {each["metadata"]["name"] for each in namespace.list("services")}


def test_deleting_a_job_leaves_nothing_running(namespace: Kubectl, tiny_base: str) -> None:
    namespace.apply(data_config_map(jsonl(rows())), tiny_job(tiny_base, training={"maxSteps": 500, "batchSize": 4}))
    job_when(namespace, "tiny", "Running", lambda job: is_true(job, "Running"), 240)
    namespace("delete", "finetunejob", "tiny", "--timeout=30s")
    for kind in ("jobs", "pods"):
        wait_until(f"no {kind}", lambda kind=kind: not namespace.list(kind), 150)  # type: ignore[misc]
    assert namespace.list("configmaps", "finetune.dev/job=tiny") == []


def test_a_job_does_not_notice_that_the_operator_dies(namespace: Kubectl, cluster: Kubectl, tiny_base: str) -> None:
    system = cluster.within(SYSTEM)

    def kill_operator() -> None:
        system("delete", "pods", "-l", "app.kubernetes.io/component=operator", "--force", "--grace-period=0")

    namespace.apply(data_config_map(jsonl(rows())), tiny_job(tiny_base))
    job_when(namespace, "tiny", "started", lambda job: "startTime" in job.get("status", {}), 60)
    kill_operator()
    job_when(namespace, "tiny", "Running", lambda job: is_true(job, "Running"), 240)
    kill_operator()
    job = finished(namespace, "tiny", 300)
    assert is_true(job, "Complete"), job["status"]
    attempts = [(each["stage"], each["number"], each["outcome"]) for each in job["status"]["attempts"]]
    assert attempts == [("Prepare", 1, "Succeeded"), ("Train", 1, "Succeeded")]


def test_an_adapter_that_learned_nothing_fails_the_gate(namespace: Kubectl, tiny_base: str) -> None:
    gate = [{"metric": "Accuracy", "beats": ["Base", "MajorityClass"]}]
    namespace.apply(
        data_config_map(jsonl(rows())),
        tiny_job(
            tiny_base,
            training={"maxSteps": 1, "batchSize": 4, "learningRate": 1e-9, "maxLength": 64},
            evaluation={"metrics": ["Loss", "Accuracy"], "labels": LABELS, "gate": gate},
            deploy={"name": "never"},
        ),
    )
    job = finished(namespace, "tiny")
    assert failure(job)[0] == "GateFailed"
    assert job["status"]["artifact"]["kind"] == "Adapter", "it is kept, and marked"
    assert namespace.find("adapterdeployment", "never") is None


def test_a_job_starts_from_the_model_of_another(namespace: Kubectl) -> None:
    text = [{"text": f"{row['prompt']}{row['completion']}"} for row in rows()]
    architecture = {
        "architecture": "Llama", "vocabularySize": 300, "hiddenSize": 32, "intermediateSize": 64, "layers": 1,
        "attentionHeads": 2,
    }  # fmt: skip
    first = tiny_job(
        "", "first", baseModel={"fromConfig": architecture}, method={"cpt": {}}, adapter=None,
        dataset={"train": {"configMap": {"name": "text", "key": "train.jsonl"}}},
    )  # fmt: skip
    second = tiny_job("", "second", baseModel={"jobRef": {"name": "first"}}, ttlSecondsAfterFinished=5)
    namespace.apply(data_config_map(jsonl(text), "text"), data_config_map(jsonl(rows())), second)
    waiting = job_when(
        namespace, "second", "waits", lambda job: job.get("status", {}).get("state") == "WaitingForJob", 30
    )
    assert "first" in waiting["status"]["message"]
    namespace.apply(first)
    done = finished(namespace, "second", 400)
    assert is_true(done, "Complete"), done["status"]
    base = namespace.get("finetunejob", "first")
    assert done["status"]["baseModel"]["digest"] == base["status"]["artifact"]["digest"]
    wait_until("second expires", lambda: namespace.find("finetunejob", "second") is None, 60)
