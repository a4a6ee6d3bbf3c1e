"""What is sent to a tracking server of MLflow, as the server has it afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import mlflow_server
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.references import SecretRef
from finetune_api.v1alpha1.tracking import MlflowTracking
from finetune_trainer.mlflow_run import send
from mlflow_server import runs_at
from tracked_jobs import DIGEST, an_end

# The server's warnings are of classes that only the process with the server's folder on its path can import.
pytestmark = [mlflow_server.NEEDED, pytest.mark.filterwarnings("ignore")]
LINES = [
    {"step": 1, "loss": 2.5, "learningRate": 1e-4, "time": "2026-05-01T10:00:00Z"},
    {"step": 2, "loss": 2.25, "learningRate": 5e-5, "time": "2026-05-01T10:00:10Z"},
]


@pytest.fixture
def stated(tmp_path: Path) -> Iterator[MlflowTracking]:
    """spec.tracking.mlflow of a server that runs; the Secret is in the folder of the test."""
    mlflow_server.secret(tmp_path / "tracker")
    with mlflow_server.serve(tmp_path) as uri:
        yield MlflowTracking(uri=uri, experiment="ended", secret_ref=SecretRef(name="tracker"))


def test_a_job_has_one_run_with_all_there_is_to_know(stated: MlflowTracking, tmp_path: Path) -> None:
    refused = tmp_path / "refused" / "tracker"
    refused.mkdir(parents=True)
    with pytest.raises(Failure, match="has no key MLFLOW_TRACKING_USERNAME and no key MLFLOW_TRACKING_PASSWORD"):
        send(stated, an_end(LINES), refused.parent)
    (refused / "MLFLOW_TRACKING_TOKEN").write_text("of another")
    with pytest.raises(Exception, match=r"401.*who are you") as error:
        send(stated, an_end(LINES), refused.parent)
    assert type(error.value).__name__ == "MlflowException", "which tracking.py knows"
    assert runs_at(stated)[1] == []
    send(stated, an_end(LINES, "another"), tmp_path)
    send(stated, an_end(LINES), tmp_path)
    send(stated, an_end(LINES), tmp_path)  # a second attempt
    store, runs = runs_at(stated)
    assert sorted(run.data.tags["finetune.dev/uid"] for run in runs) == ["another", "u"]
    run = next(run for run in runs if run.data.tags["finetune.dev/uid"] == "u")
    assert (run.info.run_name, run.info.status) == ("team-a/tiny", "FINISHED")
    assert run.info.end_time - run.info.start_time == 10_000
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("finetune.dev/")}
    assert tags == {
        "finetune.dev/job": "team-a/tiny",
        "finetune.dev/uid": "u",
        "finetune.dev/artifact": "s3://bucket/tiny/adapter",
        "finetune.dev/digest": DIGEST,
    }
    told = {"method": "sft", "baseModel": "s3://models/base", "adapter.rank": "4", "training.steps": "2"}
    assert told.items() <= run.data.params.items()
    assert run.data.metrics == {"loss": 2.25, "learningRate": 5e-5, "tuned.Loss": 1.5}
    curve = store.get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.value) for each in curve] == [(1, 2.5), (2, 2.25)]
