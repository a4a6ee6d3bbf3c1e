"""The curve is at the MLflow server while training goes on; whatever happens in between, at the end it is that of metrics.jsonl."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import s3_server
from finetune_api.artifacts import METRICS
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.references import SecretRef
from finetune_api.v1alpha1.tracking import MlflowTracking
from finetune_stage.report import Reporter
from finetune_trainer import mlflow_live
from finetune_trainer.mlflow_live import Live
from finetune_trainer.mlflow_run import send
from finetune_trainer.progress import Progress
from mlflow_server import NEEDED, curve_at, run_at, runs_at, secret, serve, until
from ports import free_port
from prepared_jobs import (
    colour_rows,
    job_store,
    lines_until,
    name_trackers,
    prepare_job,
    start_train,
    train_here,
    training,
)
from tracked_jobs import a_line, an_attempt, an_end, write

# The server's warnings are of classes that only the process with the server's folder on its path can import.
pytestmark = [NEEDED, pytest.mark.filterwarnings("ignore")]
ONE, TWO, THREE, FOUR = (a_line(step, 3 - step / 4) for step in range(1, 5))
AGAIN = a_line(3, THREE["loss"] * 1.0001, second=40)
"""Step 3 as it comes out on a GPU when it is taken again."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(mlflow_live, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(mlflow_live, "AGAIN_SECONDS", 0.02)


@pytest.fixture
def stated(tmp_path: Path) -> MlflowTracking:
    """spec.tracking.mlflow of a port on which nothing listens yet."""
    secret(tmp_path / "tracker")
    return MlflowTracking(
        uri=f"http://127.0.0.1:{free_port()}", experiment=tmp_path.name, secret_ref=SecretRef(name="tracker")
    )


def port_of(stated: MlflowTracking) -> int:
    return int(stated.uri.rpartition(":")[2])


@pytest.fixture
def server(tmp_path: Path, stated: MlflowTracking) -> Iterator[None]:
    with serve(tmp_path, port_of(stated)):
        yield


def losses(*lines: dict[str, float]) -> list[tuple[float, float]]:
    return [(line["step"], line["loss"]) for line in lines]


def test_an_attempt_goes_on_with_the_run_of_the_one_before(
    server: None, stated: MlflowTracking, tmp_path: Path
) -> None:
    def interrupted() -> None:
        inputs = an_attempt(tmp_path, stated, ONE, TWO)
        with Live(inputs) as live:
            live.news()
            until(lambda: curve_at(stated) == losses(ONE, TWO))
            run = run_at(stated)
            assert (run.info.status, run.data.params["training.steps"]) == ("RUNNING", "2")
            write(inputs, THREE)
            raise Failure(Reason.INTERRUPTED, run.info.run_id)

    def failed() -> None:
        inputs = an_attempt(tmp_path, stated, ONE, TWO)
        with Live(inputs) as live:
            live.news()
            until(lambda: run_at(stated).info.status == "RUNNING")
            write(inputs, AGAIN, FOUR)
            live.news()
            until(lambda: curve_at(stated)[-1][0] == 4)
            raise ZeroDivisionError

    with pytest.raises(Failure) as first:
        interrupted()
    assert run_at(stated).info.status == "KILLED"
    assert curve_at(stated) == losses(ONE, TWO, THREE), "what was logged last is told as well"
    with pytest.raises(ZeroDivisionError):
        failed()
    assert run_at(stated).info.status == "FAILED"
    send(stated, an_end([ONE, TWO, AGAIN, FOUR]), tmp_path)
    assert run_at(stated).info.status == "FINISHED"
    assert run_at(stated).info.run_id == first.value.message, "one run of all attempts"
    assert curve_at(stated) == losses(ONE, TWO, THREE, FOUR), "a step once, as it came out first"


@pytest.mark.parametrize(
    "true",
    [
        pytest.param([ONE, TWO, a_line(3, 9.5), FOUR], id="a step came out otherwise when taken again"),
        pytest.param([ONE, TWO, FOUR], id="a step was not logged again"),
    ],
)
def test_a_lost_course_is_replaced_by_the_true_one(
    server: None, stated: MlflowTracking, tmp_path: Path, true: list[dict[str, float]]
) -> None:
    with Live(an_attempt(tmp_path, stated, ONE, TWO, THREE)) as live:
        live.news()
        until(lambda: curve_at(stated) == losses(ONE, TWO, THREE))
        lost = run_at(stated).info.run_id
    send(stated, an_end(true), tmp_path)
    assert curve_at(stated) == losses(*true)
    assert run_at(stated).info.run_id != lost, "MLflow takes no value back"


def test_a_deleted_run_is_made_again_with_all_steps(
    server: None, stated: MlflowTracking, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = an_attempt(tmp_path, stated, ONE)
    with Live(inputs) as live:
        live.news()
        until(lambda: curve_at(stated) == losses(ONE))
        store = runs_at(stated)[0]
        store.delete_run(run_at(stated).info.run_id)
        write(inputs, TWO)
        live.news()
        until(lambda: curve_at(stated) == losses(ONE, TWO))
    said = capsys.readouterr().out
    assert said.startswith("MLflow was not told (INVALID_PARAMETER_VALUE: ")
    assert said.endswith("MLflow is told again, after 1 failures\n")


def test_a_server_that_was_away_gets_what_it_missed(
    stated: MlflowTracking, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = an_attempt(tmp_path, stated, ONE)
    with Live(inputs) as live:
        live.news()
        until(lambda: "MLflow was not told (API request to http" in capsys.readouterr().out)
        with serve(tmp_path, port_of(stated)):
            until(lambda: "MLflow is told again, after" in capsys.readouterr().out)
            assert curve_at(stated) == losses(ONE)
        write(inputs, TWO)
        live.news()
        until(lambda: "MLflow was not told" in capsys.readouterr().out)
        live.rest()
        write(inputs, THREE)
        live.news()  # in vain
    with serve(tmp_path, port_of(stated)):
        assert curve_at(stated) == losses(ONE)
        send(stated, an_end([ONE, TWO, THREE]), tmp_path)
        assert curve_at(stated) == losses(ONE, TWO, THREE)
        assert run_at(stated).info.status == "FINISHED"


def test_no_step_waits_for_a_server_that_never_answers(stated: MlflowTracking, tmp_path: Path) -> None:
    inputs = an_attempt(tmp_path, stated)
    mute = socket.create_server(("127.0.0.1", port_of(stated)))
    with mute, Live(inputs) as live, Reporter(None) as reporter:
        progress = Progress(inputs.store, inputs.work, 3, reporter, live.news)
        progress.begin(0, 0)
        mute.settimeout(20)
        asked, _ = mute.accept()  # and is not answered
        for step in (1, 2, 3):
            progress.logged(step, step, {"epoch": 0.5, "loss": 2.5, "learningRate": 1e-3, "gradNorm": 0.7})
        assert len((inputs.work / METRICS).read_bytes().splitlines()) == 3
        mute.setblocking(False)
        with pytest.raises(BlockingIOError):
            mute.accept()  # all of it within the first request
        mute.close()
        asked.close()


def test_a_killed_training_goes_on_as_one_run_with_one_curve(
    server: None, stated: MlflowTracking, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secret(secrets / "tracker")
    with s3_server.serve(tmp_path / "s3") as held:
        held.secret(secrets / "s3")
        steps = training(steps=24, checkpoint_every_steps=4)
        config = prepare_job(held.bucket("models"), secrets, {"train": colour_rows(46)}, settings=steps)
        store = job_store(config, secrets)
        name_trackers(store, {"mlflow": stated.wire()})
        process = start_train(config, secrets, tmp_path / "first")
        try:
            lines_until(process, "checkpoint of step 4 committed")
            held.stop()  # the training cannot get further than to step 16, and is killed there
            until(lambda: max(curve_at(stated), default=(0,))[0] >= 12)
            assert run_at(stated).info.status == "RUNNING"
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=10)
        held.start()
        first = run_at(stated).info.run_id
        train_here(config, secrets, tmp_path / "second")
        lines = map(json.loads, store.get(METRICS).splitlines())
        assert curve_at(stated) == [(step, pytest.approx(loss)) for step, loss in losses(*lines)]
    assert (run_at(stated).info.run_id, run_at(stated).info.status) == (first, "FINISHED")
    assert "tuned.Loss" not in run_at(stated).data.metrics, "there are no held-out rows"
