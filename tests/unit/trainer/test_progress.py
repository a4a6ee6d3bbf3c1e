"""What is written and said while training. The store is a dictionary: what a real one does is in tests/contract."""

import json
from pathlib import Path

import pytest

from finetune_api.pods import Report
from finetune_api.v1alpha1.finetunejob_status import Checkpoint
from finetune_trainer.progress import Progress, duration

FIGURES = {"epoch": 0.5, "loss": 2.5, "learningRate": 1e-3, "gradNorm": 0.7}


class Sent:
    """Keeps what would be reported."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def send(self, report: Report) -> None:
        self.reports.append(report)


class Objects(dict[str, bytes]):
    """Keeps what would be stored."""

    def exists(self, key: str) -> bool:
        return key in self

    def upload(self, path: Path, key: str) -> None:
        self[key] = path.read_bytes()

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key]


@pytest.fixture
def sent() -> Sent:
    return Sent()


def a_progress(tmp_path: Path, sent: Sent, stored: Objects | None = None) -> Progress:
    return Progress(Objects() if stored is None else stored, tmp_path, 200, sent)  # type: ignore[arg-type]


def test_a_logged_step_is_written_said_and_reported(
    tmp_path: Path, sent: Sent, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = a_progress(tmp_path, sent)
    progress.begin(0, 0)
    progress.logged(20, 4000, FIGURES)
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    written = json.loads(line)
    assert list(written) == ["step", "epoch", "loss", "learningRate", "gradNorm", "tokens", "tokensPerSecond", "time"]
    assert (written["step"], written["loss"], written["tokens"]) == (20, 2.5, 4000)
    assert capsys.readouterr().out.startswith("step 20/200 (10 %)  loss 2.5000  lr 1.00e-03  ")
    status = sent.reports[-1].trainer_status
    assert status.progress_percentage == 10
    assert {metric.name: metric.value for metric in status.metrics or []}["loss"] == "2.5"
    progress.logged(40, 123_456_789, FIGURES)
    assert {metric.name: metric.value for metric in sent.reports[-1].trainer_status.metrics or []}[
        "tokens"
    ] == "123456789"


def test_the_end_is_reported_only_when_all_is_published(tmp_path: Path, sent: Sent) -> None:
    progress = a_progress(tmp_path, sent)
    progress.begin(0, 0)
    progress.logged(200, 9, FIGURES)
    assert sent.reports[-1].trainer_status.progress_percentage == 99
    progress.published()
    assert sent.reports[-1].trainer_status.progress_percentage == 100


def test_resuming_forgets_what_was_logged_after_the_checkpoint(tmp_path: Path, sent: Sent) -> None:
    stored = Objects({"metrics.jsonl": b'{"step": 10}\n{"step": 20}\n{"step": 30}\n'})
    progress = a_progress(tmp_path, sent, stored)
    progress.resume(20)
    progress.begin(20, 100)
    assert progress.metrics() == b'{"step": 10}\n{"step": 20}\n'
    assert sent.reports[-1].resumed_from_step == 20


def test_the_kept_checkpoints_are_reported(tmp_path: Path, sent: Sent) -> None:
    progress = a_progress(tmp_path, sent)
    progress.committed(
        [Checkpoint(step=step, uri=f"s3://b/step-{step}", created_at="2026-01-01T00:00:00Z") for step in (20, 30)]
    )
    assert [checkpoint.step for checkpoint in sent.reports[-1].checkpoints or []] == [20, 30]


@pytest.mark.parametrize(("seconds", "said"), [(42, "42s"), (200, "3m20s"), (7500, "2h05m")])
def test_duration(seconds: int, said: str) -> None:
    assert duration(seconds) == said
