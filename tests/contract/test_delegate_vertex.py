"""A delegated job at Vertex AI: the real google-genai and Cloud Storage clients, a real S3 server; Google is played (vertex_stand_in)."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from delegated_jobs import ROWS, delegated_job, ended, run_here, start_delegate, task
from finetune_api.pods import REPORT_URL_ENV, JobConfig, Shown
from finetune_api.reasons import Reason
from finetune_delegate import recipe, vertex_service
from prepared_jobs import UID
from report_server import ReportServer
from stand_in import Fault
from vertex_stand_in import BASE, LOCATION, PARENT, PROJECT, Vertex

ROOT = f"/v1(beta1)?/{PARENT}"
JOBS = f"{ROOT}/tuningJobs"
ONE = f"{JOBS}/[0-9]+"


pytestmark = pytest.mark.usefixtures("impatient")


def a_job(bucket: str, secrets_dir: Path, vertex: Vertex, base: str = BASE, **more: Any) -> JobConfig:
    settings = {
        "project": PROJECT, "location": LOCATION, "stagingUri": "gs://rows/team", "secretRef": {"name": "google"},
        "baseUrl": vertex.url, "storageUrl": vertex.url, **more.pop("backend", {}),
    }  # fmt: skip
    return delegated_job(bucket, secrets_dir, {"vertex": settings}, f"vertex://{base}", **more)


def test_a_job_is_tuned_evaluated_and_recorded(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    gate = [{"metric": "ExactMatch", "min": 0.9, "beats": ["Base"]}]
    trained = run_here(a_job(bucket, secrets_dir, vertex, evaluation={"gate": gate}), secrets_dir, tmp_path / "work")
    made = trained.artifact.provider
    assert made is not None
    assert (made.kind, made.model, made.endpoint) == ("Vertex", f"{PARENT}/models/100@1", f"{PARENT}/endpoints/100")
    assert (made.base_model, made.project, made.location) == (BASE, PROJECT, LOCATION)
    assert (trained.trained_tokens, trained.steps, trained.gate_passed) == (4321, 10, True)
    assert trained.evaluation is not None
    assert trained.evaluation.base == {"ExactMatch": 0.0}
    assert trained.evaluation.tuned == {"ExactMatch": 1.0}


def test_every_option_reaches_vertex(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    key = "projects/p/locations/europe-west4/keyRings/r/cryptoKeys/k"
    options = {
        "displayName": "Mine", "description": "For tests", "learningRateMultiplier": 0.5, "labels": {"team": "a"},
        "exportLastCheckpointOnly": True, "encryptionKey": key,
    }  # fmt: skip
    config = a_job(
        bucket, secrets_dir, vertex, rows=ROWS | {"validation": ROWS["test"]}, backend=options,
        training={"epochs": 2, "batchSize": 4}, adapter={"type": "LoRA", "rank": 8},
    )  # fmt: skip
    run_here(config, secrets_dir, tmp_path / "work")
    (sent,) = vertex.asked("POST", JOBS)
    train, validation = sorted(vertex.objects)
    assert sent.json == {
        "baseModel": BASE,
        "tunedModelDisplayName": "Mine",
        "description": "For tests",
        "supervisedTuningSpec": {
            "trainingDatasetUri": f"gs://{train}",
            "validationDatasetUri": f"gs://{validation}",
            "exportLastCheckpointOnly": True,
            "hyperParameters": {
                "epochCount": 2, "learningRateMultiplier": 0.5, "adapterSize": "ADAPTER_SIZE_EIGHT", "batchSize": 4,
            },
        },
        "encryptionSpec": {"kms_key_name": key},  # as this client writes it; proto3's JSON knows both names
        "labels": {"team": "a", "finetune-uid": UID, "finetune-job": "tiny", "finetune-namespace": "team-a"},
    }  # fmt: skip
    assert train.startswith(f"rows/team/team-a/tiny/{UID}/train-")
    assert json.loads(vertex.objects[train].splitlines()[0]) == {
        "contents": [
            {"role": "user", "parts": [{"text": "red thing 0\nColour:"}]},
            {"role": "model", "parts": [{"text": "red"}]},
        ]
    }


def test_a_tuned_model_can_be_gone_on_from(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    model = f"{PARENT}/models/7@1"
    config = a_job(bucket, secrets_dir, vertex, base=model, backend={"preTunedCheckpointId": "2"})
    run_here(config, secrets_dir, tmp_path / "work")
    (sent,) = vertex.asked("POST", JOBS)
    assert sent.json["preTunedModel"] == {"tuned_model_name": model, "checkpoint_id": "2"}


def test_a_preference_becomes_scored_completions(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path
) -> None:
    pairs = [{"prompt": f"red {n}", "chosen": "red", "rejected": "blue"} for n in range(3)]
    config = a_job(bucket, secrets_dir, vertex, rows={"train": pairs}, method={"dpo": {"beta": 0.2}})
    run_here(config, secrets_dir, tmp_path / "work")
    (sent,) = vertex.asked("POST", JOBS)
    assert sent.json["preferenceOptimizationSpec"]["hyperParameters"] == {"beta": 0.2}
    (data,) = vertex.objects.values()
    row = json.loads(data.splitlines()[0])
    assert [(each["score"], each["completion"]["parts"][0]["text"]) for each in row["completions"]] == [
        (1.0, "red"), (0.0, "blue"),
    ]  # fmt: skip


def test_a_system_message_becomes_an_instruction(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path
) -> None:
    rows = [{"messages": [{"role": "system", "content": "Be short."}, *row["messages"]]} for row in ROWS["train"]]
    run_here(a_job(bucket, secrets_dir, vertex, rows={"train": rows}), secrets_dir, tmp_path / "work")
    (data,) = vertex.objects.values()
    assert json.loads(data.splitlines()[0])["systemInstruction"] == {"role": "system", "parts": [{"text": "Be short."}]}


def test_a_row_vertex_does_not_take_is_named(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    rows = [*ROWS["train"], {"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]}]
    end = ended(a_job(bucket, secrets_dir, vertex, rows={"train": rows}), secrets_dir, tmp_path / "work")
    assert (end.reason, end.message) == (
        Reason.DATA_INVALID,
        "Vertex AI does not take row 13 of data/train.jsonl: found a turn of role tool, expected system, user and assistant texts",
    )
    assert vertex.jobs == {}


@pytest.mark.parametrize(("method", "path", "carried_out"), [
    pytest.param("POST", "/upload/.+", True, id="after the upload"),
    pytest.param("POST", JOBS, True, id="between acceptance and record"),
    pytest.param("GET", ONE, True, id="while it runs"),
])  # fmt: skip
def test_a_killed_pod_leads_to_one_tuning_job(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path, method: str, path: str, carried_out: bool
) -> None:
    config = a_job(bucket, secrets_dir, vertex)
    vertex.faults.append(Fault(method, path, carried_out=carried_out, meanwhile=lambda: process.kill()))
    process = start_delegate(config, secrets_dir, tmp_path / "first")
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    trained = run_here(config, secrets_dir, tmp_path / "second")
    assert trained.artifact.provider is not None
    assert trained.artifact.provider.job == f"{PARENT}/tuningJobs/100"
    assert len(vertex.jobs) == 1
    assert len(vertex.objects) == 1


def test_a_duplicate_that_a_lagging_list_let_through_is_cancelled(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path
) -> None:
    vertex.lag = 3
    vertex.faults.append(Fault("POST", JOBS, carried_out=True))
    run_here(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work")
    states = sorted(job["state"] for job in vertex.jobs.values())
    assert states in (["JOB_STATE_CANCELLED", "JOB_STATE_SUCCEEDED"], ["JOB_STATE_CANCELLING", "JOB_STATE_SUCCEEDED"])


def oops(status: int, name: str, message: str = "oops") -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": name}}


@pytest.mark.parametrize("fault", [
    pytest.param(Fault("GET", ONE, 429, oops(429, "RESOURCE_EXHAUSTED"), {"Retry-After": "0.02"}, times=3), id="429"),
    pytest.param(Fault("POST", JOBS, 429, oops(429, "RESOURCE_EXHAUSTED"), times=2), id="429 on the submission"),
    pytest.param(Fault("POST", JOBS, 500, oops(500, "INTERNAL"), carried_out=True), id="500 after acceptance"),
    pytest.param(Fault("POST", JOBS, carried_out=True), id="a lost answer to the submission"),
    pytest.param(Fault("POST", JOBS, carried_out=True, delay_seconds=0.6), id="a time-out of the submission"),
    pytest.param(Fault("GET", ONE, 503, oops(503, "UNAVAILABLE"), times=3), id="503"),
    pytest.param(Fault("GET", ONE, times=3), id="dropped connections"),
    pytest.param(Fault("GET", ONE, delay_seconds=0.6), id="a time-out"),
    pytest.param(Fault("GET", "/storage/.+", 503, oops(503, "UNAVAILABLE"), times=2), id="503 of the bucket"),
    pytest.param(Fault("POST", "/upload/.+", times=1), id="a dropped upload"),
    pytest.param(Fault("POST", "/token", 503, {"error": "unavailable"}, times=1), id="503 of the token endpoint"),
    pytest.param(Fault("POST", ".+generateContent", 429, oops(429, "RESOURCE_EXHAUSTED"), times=5), id="429 evaluating"),
])  # fmt: skip
def test_what_may_pass_is_waited_out(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vertex_service, "TIMEOUT_SECONDS", 0.5)
    wanted = fault.times
    vertex.faults.append(Fault(**vars(fault)))
    trained = run_here(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work")
    assert vertex.injected == wanted
    assert trained.evaluation is not None
    assert trained.evaluation.tuned == {"ExactMatch": 1.0}
    assert len(vertex.jobs) == 1


def test_a_quota_that_stays_used_up_is_an_end_that_is_tried_again(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path
) -> None:
    vertex.faults.append(Fault("POST", JOBS, 429, oops(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), times=1000))
    end = ended(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work", patience=0.1)
    assert end.reason is Reason.PROVIDER_UNAVAILABLE
    assert "429 Quota exceeded" in end.message
    assert vertex.jobs == {}


def test_the_operator_is_told_states_checkpoints_and_tokens(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ReportServer()
    monkeypatch.setenv(REPORT_URL_ENV, server.url)
    run_here(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work")
    server.close()
    last = server.seen[-1][1]
    assert last["provider"] == {"job": f"{PARENT}/tuningJobs/100", "state": "Succeeded", "billedTokens": 4321}
    assert [(each["step"], each["uri"]) for each in last["checkpoints"]] == [
        (5, f"vertex://{PARENT}/endpoints/1001"), (10, f"vertex://{PARENT}/endpoints/100"),
    ]  # fmt: skip


def test_a_wait_for_quota_and_an_unknown_state_are_shown(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vertex.run = (*vertex.run[:2], ("JOB_STATE_SIMMERING", None), ("JOB_STATE_PAUSED", None), *vertex.run[2:])
    run_here(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work")
    said = capsys.readouterr().out
    job = f"{PARENT}/tuningJobs/100"
    for state in ("Queued", "WaitingForQuota", "Paused", "Running", "Succeeded"):
        assert f"{job} is {state}." in said
    assert f"{job} is Unknown. The provider calls its state 'JOB_STATE_SIMMERING'." in said


@pytest.mark.parametrize(("state", "says"), [
    ("JOB_STATE_FAILED", "failed: The dataset has 3 rows, at least 10 are needed."),
    ("JOB_STATE_CANCELLED", "was cancelled at the provider"),
    ("JOB_STATE_EXPIRED", "failed"),
])  # fmt: skip
def test_another_end_has_the_providers_words(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path, state: str, says: str
) -> None:
    vertex.run = (("JOB_STATE_RUNNING", None), (state, None))
    vertex.end_error = {"code": 3, "message": "The dataset has 3 rows, at least 10 are needed."}
    end = ended(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work")
    assert (end.reason, end.message) == (Reason.BACKEND_ERROR, f"The provider's job {PARENT}/tuningJobs/100 {says}")


def test_a_refused_model_is_named(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    end = ended(a_job(bucket, secrets_dir, vertex, base="palm-1"), secrets_dir, tmp_path / "work")
    assert end.reason is Reason.MODEL_NOT_FOUND
    assert "baseModel vertex://palm-1" in end.message
    assert "Base model palm-1 is not supported." in end.message


def test_a_wrong_region_is_named(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    config = a_job(bucket, secrets_dir, vertex, backend={"location": "mars-1"})
    end = ended(config, secrets_dir, tmp_path / "work")
    assert end.reason is Reason.BACKEND_ERROR
    assert "Tuning is not supported in location mars-1." in end.message
    assert "backend.vertex.location is mars-1" in end.message


def test_refused_credentials_name_their_secret(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    expired = Fault(
        "POST", "/token", 400, {"error": "invalid_grant", "error_description": "Token has expired."}, times=99
    )
    vertex.faults.append(expired)
    end = ended(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work")
    assert end.reason is Reason.ACCESS_DENIED
    assert "Google refused the credentials of Secret 'google'" in end.message


def test_a_missing_right_is_named(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    denied = oops(403, "PERMISSION_DENIED", "Permission 'aiplatform.tuningJobs.create' denied")
    vertex.faults.append(Fault("POST", JOBS, 403, denied))
    end = ended(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work")
    assert end.reason is Reason.ACCESS_DENIED
    assert "aiplatform.tuningJobs.create" in end.message


def test_a_credential_that_expires_while_the_job_runs_is_read_again(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vertex_service, "RENEWAL_SECONDS", 20.0)

    def renew() -> None:
        vertex.token = "token-2"

    vertex.faults.append(Fault("GET", ONE, 401, oops(401, "UNAUTHENTICATED", "expired"), meanwhile=renew))
    run_here(a_job(bucket, secrets_dir, vertex), secrets_dir, tmp_path / "work")
    assert len(vertex.jobs) == 1


def test_a_cancel_ends_it_at_the_provider(bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path) -> None:
    config = a_job(bucket, secrets_dir, vertex)
    vertex.faults.append(Fault("POST", JOBS, carried_out=True, meanwhile=lambda: process.kill()))
    process = start_delegate(config, secrets_dir, tmp_path / "first")
    process.communicate(timeout=300)
    (job,) = vertex.jobs
    assert recipe.cancel(task(config, secrets_dir, tmp_path / "cancel")) == [job]
    assert vertex.jobs[job]["state"] == "JOB_STATE_CANCELLING"


def test_a_dry_run_shows_the_request_and_sends_nothing(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path
) -> None:
    shown = recipe.run(task(a_job(bucket, secrets_dir, vertex, dry_run=True), secrets_dir, tmp_path), poll_seconds=0.01)
    assert isinstance(shown, Shown)
    assert f"POST {vertex.url}/v1beta1/{PARENT}/tuningJobs" in shown.message
    assert '"trainingDatasetUri": "<uploaded train.jsonl>"' in shown.message
    assert vertex.requests == []
