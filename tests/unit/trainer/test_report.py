"""Reports: the newest wins, the token is read anew, and a failing server is only counted."""

import threading
from collections.abc import Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from finetune_api.pods import Report
from finetune_api.v1alpha1.finetunejob_status import TrainerStatus
from finetune_stage import report
from finetune_stage.report import Destination, Reporter, destination
from report_server import ReportServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportServer]:
    monkeypatch.setattr(report, "PAUSE_SECONDS", 0.01)
    server = ReportServer()
    yield server
    server.close()


def a_report(percentage: int) -> Report:
    return Report(trainer_status=TrainerStatus(progress_percentage=percentage))


def test_the_newest_report_wins_and_none_waits(server: ReportServer, tmp_path: Path) -> None:
    server.answer = threading.Semaphore(0)
    with Reporter(Destination(server.url, None, None)) as reporter:
        reporter.send(a_report(1))
        assert server.arrived.acquire(timeout=5)
        for percentage in range(2, 50):  # the server still holds the first one
            reporter.send(a_report(percentage))
        server.answer.release(10)
    assert server.steps() == [1, 49]


def test_the_token_is_read_for_every_report(server: ReportServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with Reporter(Destination(server.url, token, None)) as reporter:
        reporter.send(a_report(1))
        assert server.arrived.acquire(timeout=5)
        token.write_text("second\n")
        reporter.send(a_report(2))
    assert [authorization for authorization, _ in server.seen] == ["Bearer first", "Bearer second"]


def test_failures_are_said_once(server: ReportServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.status = 503
    with Reporter(Destination(server.url, None, None)) as reporter:
        for percentage in (1, 2):
            reporter.send(a_report(percentage))
            assert server.arrived.acquire(timeout=5)
        server.status = 200
        reporter.send(a_report(3))
    assert server.steps() == [1, 2, 3]
    said = capsys.readouterr().out
    assert said.count("progress report failed") == 1
    assert "work again" in said


def test_an_absent_server_or_token_costs_nothing(tmp_path: Path) -> None:
    with Reporter(Destination("http://127.0.0.1:1/status", tmp_path / "absent", None)) as reporter:
        reporter.send(a_report(1))
    assert reporter.failures == 1
    with Reporter(None) as silent:
        silent.send(a_report(1))


def test_a_server_that_does_not_speak_http_is_one_more_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mumbling(StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"hello?\r\n")
            self.rfile.read()  # the client hangs up

    monkeypatch.setattr(report, "PAUSE_SECONDS", 0.01)
    with ThreadingTCPServer(("127.0.0.1", 0), Mumbling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Reporter(Destination(f"http://127.0.0.1:{server.server_address[1]}/status", None, None)) as reporter:
            reporter.send(a_report(1))
        server.shutdown()
    assert reporter.failures == 1


def test_the_environment_names_the_server() -> None:
    assert destination({}) is None
    assert destination({"KUBEFLOW_TRAINER_SERVER_URL": "https://o:8080/x", "KUBEFLOW_TRAINER_SERVER_TOKEN": "/t"}) == (
        Destination("https://o:8080/x", Path("/t"), None)
    )
