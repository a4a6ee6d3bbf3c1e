"""What goes wrong at a service with OpenAI's API: what may pass is waited out, everything else is an end that says why."""

from pathlib import Path
from typing import Any

import pytest

from delegated_jobs import ended, openai_job, run_here
from finetune_api.reasons import Reason
from finetune_delegate import openai_service
from openai_stand_in import JOBS, KEY, ONE, OpenAI
from stand_in import Fault

pytestmark = pytest.mark.usefixtures("impatient")


def limited(path: str, method: str = "GET", **more: Any) -> Fault:
    body = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
    return Fault(method, path, 429, body, {"Retry-After": "0.02"}, **more)


@pytest.mark.parametrize("fault", [
    pytest.param(limited(ONE, times=3), id="429 with Retry-After"),
    pytest.param(limited(JOBS, "POST", times=2), id="429 on the submission"),
    pytest.param(limited("/v1/chat/completions", "POST", times=5), id="429 while evaluating"),
    pytest.param(Fault("GET", ONE, 500, {"error": {"message": "oops"}}, times=3), id="500"),
    pytest.param(Fault("GET", f"{ONE}/events", 503, times=2), id="503 without a body"),
    pytest.param(Fault("GET", ONE, times=3), id="dropped connections"),
    pytest.param(Fault("POST", "/v1/files", times=1), id="a dropped upload"),
    pytest.param(Fault("GET", JOBS, 502, times=2), id="502 on the list"),
    pytest.param(Fault("GET", ONE, delay_seconds=0.6, times=1), id="a time-out"),
])  # fmt: skip
def test_what_may_pass_is_waited_out(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_service, "TIMEOUT_SECONDS", 0.5)
    wanted = fault.times
    openai.faults.append(Fault(**vars(fault)))
    trained = run_here(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert openai.injected == wanted
    assert trained.evaluation is not None
    assert trained.evaluation.tuned == {"ExactMatch": 1.0}
    assert len(openai.jobs) == 1


def test_a_provider_that_stays_away_is_an_end_that_is_tried_again(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path
) -> None:
    openai.faults.append(Fault("GET", ONE, 503, {"error": {"message": "down"}}, times=1000))
    end = ended(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work", patience=0.1)
    assert end.reason is Reason.PROVIDER_UNAVAILABLE
    assert "503 down" in end.message


def test_a_failed_job_ends_with_the_providers_words(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path
) -> None:
    openai.run = ("validating_files", "failed")
    openai.end_error = {"code": "invalid_training_file", "message": "Line 3 is too long.", "param": "training_file"}
    end = ended(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert (end.reason, end.message) == (
        Reason.BACKEND_ERROR, "The provider's job ftjob-1 failed: Line 3 is too long.",
    )  # fmt: skip


def test_a_job_cancelled_outside_says_so(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    openai.run = ("running", "cancelled")
    end = ended(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert (end.reason, end.message) == (
        Reason.BACKEND_ERROR, "The provider's job ftjob-1 was cancelled at the provider",
    )  # fmt: skip


def test_an_unknown_state_is_shown_and_waited_out(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    openai.run = ("simmering", "paused", "running", "succeeded")
    run_here(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    said = capsys.readouterr().out
    assert "ftjob-1 is Unknown. The provider calls its state 'simmering'." in said
    assert "ftjob-1 is Paused." in said


def test_a_refused_model_is_named(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    end = ended(openai_job(bucket, secrets_dir, openai, base="claude"), secrets_dir, tmp_path / "work")
    assert end.reason is Reason.MODEL_NOT_FOUND
    assert end.message.startswith("baseModel openai://claude: Model claude is not available")


def test_a_refused_key_names_its_secret(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    openai.key = "another"
    end = ended(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert end.reason is Reason.ACCESS_DENIED
    assert "key OPENAI_API_KEY of Secret 'openai'" in end.message
    assert end.message.endswith("Incorrect API key provided: ….")
    assert KEY not in end.message


def test_a_missing_right_is_named(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    denied = {"error": {"message": "You have insufficient permissions: missing scopes: api.fine_tuning.jobs.write"}}
    openai.faults.append(Fault("POST", JOBS, 403, denied))
    end = ended(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert end.reason is Reason.ACCESS_DENIED
    assert "missing scopes: api.fine_tuning.jobs.write" in end.message


def test_a_key_that_is_renewed_while_the_job_runs_is_read_again(
    bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_service, "RENEWAL_SECONDS", 20.0)

    def renew() -> None:
        openai.key = "sk-new"
        (secrets_dir / "openai" / "OPENAI_API_KEY").write_text("sk-new")

    expired = {"error": {"message": "The API key has expired.", "code": "invalid_api_key"}}
    openai.faults.append(Fault("GET", ONE, 401, expired, meanwhile=renew))
    run_here(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert len(openai.jobs) == 1


def test_a_used_up_quota_is_an_end(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    body = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    openai.faults.append(Fault("POST", JOBS, 429, body))
    end = ended(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert end.reason is Reason.BACKEND_ERROR
    assert "quota is used up: You exceeded your current quota" in end.message


def test_a_missing_key_is_named(bucket: str, secrets_dir: Path, openai: OpenAI, tmp_path: Path) -> None:
    (secrets_dir / "openai" / "OPENAI_API_KEY").unlink()
    end = ended(openai_job(bucket, secrets_dir, openai), secrets_dir, tmp_path / "work")
    assert end.reason is Reason.SECRET_NOT_FOUND
    assert "OPENAI_API_KEY" in end.message
