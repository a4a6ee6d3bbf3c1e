"""A delegated job at a service with OpenAI's API: the real client, a real S3 server; the service is played (openai_stand_in).

How it fails has a file of its own.
"""

import json
import signal
from pathlib import Path

import pytest

from delegated_jobs import ROWS, openai_job, run_here, start_delegate, task
from finetune_api.artifacts import EVALUATION, Manifest
from finetune_api.pods import REPORT_URL_ENV, Shown, Summary
from finetune_delegate import examine, openai_service, recipe
from finetune_stage.rows import Row
from finetune_stage.scores import EvaluationFile
from openai_stand_in import BASE, JOBS, ONE, OpenAI
from prepared_jobs import UID, job_store
from report_server import ReportServer
from stand_in import Fault

pytestmark = pytest.mark.usefixtures("impatient")


def test_a_job_is_tuned_evaluated_and_recorded(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    gate = [{"metric": "ExactMatch", "min": 0.9, "beats": ["Base"]}]
    judged = {"gate": gate, "metrics": ["MacroF1"], "labels": ["red", "green", "blue"]}
    config = openai_job(bucket, secrets_dir, openai, evaluation=judged)
    trained = run_here(config, secrets_dir, tmp_path / "work")

    assert trained.artifact.kind == "Endpoint"
    assert trained.artifact.provider is not None
    assert trained.artifact.provider.model == f"ft:{BASE}:org:tiny:1"
    assert trained.artifact.provider.job == "ftjob-1"
    assert (trained.trained_tokens, trained.steps, trained.loss) == (4321, 10, 0.1)
    assert trained.gate_passed
    assert trained.evaluation is not None
    assert trained.evaluation.base == {"ExactMatch": 0.0, "MacroF1": 0.0}
    assert trained.evaluation.tuned == {"ExactMatch": 1.0, "MacroF1": 1.0}

    store = job_store(config, secrets_dir)
    manifest = Manifest.model_validate_json(store.get("manifest.json"))
    assert [each.path for each in manifest.files if each.path.startswith("endpoint/")] == [
        "endpoint/README.md", "endpoint/endpoint.json", "endpoint/manifest.json",
    ]  # fmt: skip
    of_folder = Manifest.model_validate_json(store.get("endpoint/manifest.json"))
    assert (of_folder.kind, of_folder.provider) == ("Endpoint", trained.artifact.provider)
    evaluation = EvaluationFile.model_validate_json(store.get(EVALUATION))
    assert len(evaluation.tuned) == len(ROWS["test"])
    assert evaluation.confusion == {label: {label: 2} for label in ("red", "green", "blue")}
    page = store.get("report.html").decode()
    assert f"sft on openai://{BASE}, at the provider" in page
    assert "<td>MacroF1</td>" in page
    assert 'aria-label="train_loss' in page
    assert "report.html" in [each.path for each in manifest.files]
    steps = [json.loads(line)["step"] for line in store.get("metrics.jsonl").splitlines()]
    assert steps == list(range(1, 11))


def test_answers_that_call_tools_are_not_asked_for(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"type": "function", "function": {"name": "paint", "arguments": {"colour": "red"}}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    calls = [{"messages": [*row["messages"][:-1], said]} for row in ROWS["test"][:2]]
    rows = ROWS | {"test": [*ROWS["test"], *calls]}
    trained = run_here(openai_job(bucket, secrets_dir, openai, rows=rows), secrets_dir, tmp_path / "work")
    assert trained.evaluation is not None
    assert (trained.evaluation.rows, trained.evaluation.tuned) == (len(ROWS["test"]), {"ExactMatch": 1.0})
    assert "2 of 8 test rows are not asked: their answers call tools" in capsys.readouterr().out


def test_every_option_reaches_the_service(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    config = openai_job(
        bucket,
        secrets_dir,
        openai,
        rows=ROWS | {"validation": ROWS["test"]},
        backend={
            "suffix": "mine",
            "learningRateMultiplier": 0.5,
            "metadata": {"team": "a"},
            "wandb": {"project": "colours", "tags": ["tiny"]},
        },
        training={"epochs": 2, "batchSize": 4, "seed": 9},
    )
    run_here(config, secrets_dir, tmp_path / "work")
    (sent,) = openai.asked("POST", JOBS)
    hyperparameters = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    assert sent.json == {
        "model": BASE,
        "training_file": "file-1",
        "validation_file": "file-2",
        "suffix": "mine",
        "seed": 9,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "integrations": [{"type": "wandb", "wandb": {"project": "colours", "tags": ["tiny"]}}],
        "metadata": {"team": "a", "finetune-uid": UID, "finetune-job": "tiny", "finetune-namespace": "team-a"},
    }
    assert [json.loads(line) for line in openai.contents["file-1"].splitlines()] == ROWS["train"]


def test_a_preference_becomes_the_services_own_shape(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path
) -> None:
    pairs = [{"prompt": f"red {n}", "chosen": "red", "rejected": "blue"} for n in range(10)]
    config = openai_job(bucket, secrets_dir, openai, rows={"train": pairs}, method={"dpo": {"beta": 0.2}})
    run_here(config, secrets_dir, tmp_path / "work")
    (sent,) = openai.asked("POST", JOBS)
    assert sent.json["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    assert json.loads(openai.contents["file-1"].splitlines()[0]) == {
        "input": {"messages": [{"role": "user", "content": "red 0"}]},
        "preferred_output": [{"role": "assistant", "content": "red"}],
        "non_preferred_output": [{"role": "assistant", "content": "blue"}],
    }


def test_what_was_answered_before_the_pod_died_is_not_asked_again(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "STORED_TOGETHER", 2)
    config = openai_job(bucket, secrets_dir, openai)
    provider, store = recipe.provider_of(task(config, secrets_dir, tmp_path)), job_store(config, secrets_dir)
    rows = [Row(str(number), fields) for number, fields in enumerate(ROWS["test"])]
    asked = "/v1/chat/completions"
    first = examine.answers(provider, BASE, store=store, rows=rows[:4], max_tokens=8)  # and here it dies
    assert len(openai.asked("POST", asked)) == 4
    assert examine.answers(provider, BASE, store=store, rows=rows, max_tokens=8)[:4] == first
    assert len(openai.asked("POST", asked)) == 6
    examine.answers(provider, "another", store=store, rows=rows[:2], max_tokens=8)
    assert len(openai.asked("POST", asked)) == 8
    run_here(config, secrets_dir, tmp_path / "work")
    assert len(openai.asked("POST", asked)) == 8 + 6, "only the tuned model was left"
    assert store.list("answers/") == []


def test_the_operator_is_told_states_losses_checkpoints_and_tokens(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ReportServer()
    monkeypatch.setenv(REPORT_URL_ENV, server.url)
    run_here(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    server.close()
    last = server.seen[-1][1]
    assert last["provider"] == {"job": "ftjob-1", "state": "Succeeded", "billedTokens": 4321}
    assert [(each["step"], each["uri"]) for each in last["checkpoints"]] == [
        (step, f"openai://ft:{BASE}:org::1:ckpt-step-{step}") for step in (5, 10)
    ]
    assert last["trainerStatus"]["progressPercentage"] == 100
    metrics = {each["name"]: each["value"] for each in last["trainerStatus"]["metrics"]}
    assert (metrics["train_loss"], metrics["current_step"], metrics["total_steps"]) == ("0.1", "10", "10")


def test_a_second_attempt_after_the_end_asks_nothing(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path
) -> None:
    config = openai_job(bucket, secrets_dir, openai)
    first = run_here(config, secrets_dir, tmp_path / "work")
    openai.requests.clear()
    assert run_here(config, secrets_dir, tmp_path / "again") == first
    assert openai.requests == []


DEATHS = [
    pytest.param("POST", "/v1/files", True, id="after the upload"),
    pytest.param("POST", JOBS, False, id="before the acceptance"),
    pytest.param("POST", JOBS, True, id="between acceptance and record"),
    pytest.param("GET", ONE, True, id="while it runs"),
    pytest.param("POST", "/v1/chat/completions", True, id="while it is evaluated"),
]


@pytest.mark.parametrize(("method", "path", "carried_out"), DEATHS)
def test_a_killed_pod_leads_to_one_tuning_job(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path, method: str, path: str, carried_out: bool
) -> None:
    config = openai_job(bucket, secrets_dir, openai)
    kill = Fault(method, path, carried_out=carried_out, meanwhile=lambda: process.kill())
    openai.faults.append(kill)
    process = start_delegate(config, secrets_dir, tmp_path / "first")
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert openai.injected == 1
    trained = run_here(config, secrets_dir, tmp_path / "second")
    assert trained.artifact.provider is not None
    assert trained.artifact.provider.job == "ftjob-1"
    assert len(openai.jobs) == 1
    assert len([file for file in openai.files.values() if file["filename"].endswith("-train.jsonl")]) == 1


@pytest.mark.parametrize("lost", [
    pytest.param(Fault("POST", JOBS, carried_out=True), id="the connection is dropped"),
    pytest.param(Fault("POST", JOBS, 500, {"error": {"message": "oops"}}, carried_out=True), id="500 after acceptance"),
    pytest.param(Fault("POST", JOBS, carried_out=True, delay_seconds=0.6), id="a time-out"),
])  # fmt: skip
def test_a_lost_answer_to_the_submission_is_looked_for(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path, lost: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_service, "TIMEOUT_SECONDS", 0.5)
    openai.faults.append(Fault(**vars(lost)))
    run_here(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert openai.injected == 1
    assert len(openai.jobs) == 1


def test_a_duplicate_that_a_lagging_list_let_through_is_cancelled(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path
) -> None:
    openai.lag = 3
    openai.faults.append(Fault("POST", JOBS, carried_out=True))
    trained = run_here(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert trained.artifact.provider is not None
    kept = trained.artifact.provider.job
    assert sorted(job["status"] for job in openai.jobs.values()) == ["cancelled", "succeeded"]
    assert openai.jobs[kept]["status"] == "succeeded"


def test_sigterm_does_not_cancel_and_cancel_does(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path
) -> None:
    openai.run = ("running",)
    config = openai_job(bucket, secrets_dir, openai)
    openai.faults.append(Fault("GET", ONE, meanwhile=lambda: process.terminate()))
    process = start_delegate(config, secrets_dir, tmp_path / "first")
    process.communicate(timeout=300)
    assert process.returncode == 143
    assert openai.jobs["ftjob-1"]["status"] == "queued"
    assert recipe.cancel(task(config, secrets_dir, tmp_path / "cancel")) == ["ftjob-1"]
    assert openai.jobs["ftjob-1"]["status"] == "cancelled"


def test_a_cancel_finds_a_job_nobody_wrote_down(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    openai.run = ("running",)
    config = openai_job(bucket, secrets_dir, openai)
    openai.faults.append(Fault("POST", JOBS, carried_out=True, meanwhile=lambda: process.kill()))
    process = start_delegate(config, secrets_dir, tmp_path / "first")
    process.communicate(timeout=300)
    canceller = start_delegate(config, secrets_dir, tmp_path / "second", "cancel")
    canceller.communicate(timeout=300)
    assert Summary.model_validate_json((tmp_path / "second" / "end").read_bytes()).error is None
    assert canceller.returncode == 0
    assert openai.jobs["ftjob-1"]["status"] == "cancelled"


def test_a_dry_run_shows_the_request_and_sends_nothing(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path
) -> None:
    shown = recipe.run(
        task(openai_job(bucket, secrets_dir, openai, dry_run=True), secrets_dir, tmp_path), poll_seconds=0.01
    )
    assert isinstance(shown, Shown)
    assert f"POST {openai.url}/fine_tuning/jobs" in shown.message
    assert '"training_file": "<uploaded train.jsonl>"' in shown.message
    assert openai.requests == []
