"""What is sent to a tracking server of MLflow, as the server has it afterwards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlflow_server
from finetune_api.artifacts import Resolved, ResolvedAdapterSpec
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, EvaluationStatus, ResolvedBaseModel
from finetune_api.v1alpha1.references import SecretRef
from finetune_api.v1alpha1.tracking import MlflowTracking
from finetune_trainer.mlflow_run import Ended, send
from prepared_jobs import spec_of, training

# The server's warnings are of classes that only the process with the server's folder on its path can import.
pytestmark = [mlflow_server.NEEDED, pytest.mark.filterwarnings("ignore")]
DIGEST = "sha256:" + "a" * 64
LINES = [
    {"step": 1, "loss": 2.5, "learningRate": 1e-4, "time": "2026-05-01T10:00:00Z"},
    {"step": 2, "loss": 2.25, "learningRate": 5e-5, "time": "2026-05-01T10:00:10Z"},
]


@pytest.fixture
def stated(tmp_path: Path) -> Iterator[MlflowTracking]:
    """spec.tracking.mlflow of a server that runs; the Secret is in the folder of the test."""
    secret = tmp_path / "tracker"
    secret.mkdir()
    (secret / "MLFLOW_TRACKING_USERNAME").write_text(mlflow_server.USER)
    (secret / "MLFLOW_TRACKING_PASSWORD").write_text(mlflow_server.PASSWORD)
    with mlflow_server.serve(tmp_path) as uri:
        yield MlflowTracking(uri=uri, experiment="bots", secret_ref=SecretRef(name="tracker"))


def an_end(uid: str = "u") -> Ended:
    resolved = Resolved(
        namespace="team-a",
        name="tiny",
        uid=uid,
        method="sft",
        format="Messages",
        base_model=ResolvedBaseModel(uri="s3://models/base"),
        dataset=spec_of("s3://bucket").dataset,
        splits=[],
        data_digest=DIGEST,
        adapter=ResolvedAdapterSpec(type="LoRA", rank=4),
        training=training(steps=2),
        evaluation=EvaluationSpec(),
        choices=[],
        output_folder="s3://bucket/tiny",
    )
    artifact = ArtifactStatus(kind="Adapter", uri="s3://bucket/tiny/adapter", digest=DIGEST)
    return Ended(resolved, LINES, artifact, EvaluationStatus(split="test", rows=9, tuned={"Loss": 1.5}))


def runs_at(stated: MlflowTracking) -> Any:
    """The server's store, and the experiment's runs in it."""
    from mlflow.entities import ViewType
    from mlflow.server.handlers import _get_tracking_store

    store = _get_tracking_store()
    experiment = store.get_experiment_by_name(stated.experiment)
    return store, store.search_runs([experiment.experiment_id], "", ViewType.ACTIVE_ONLY) if experiment else []


def test_a_job_has_one_run_with_all_there_is_to_know(stated: MlflowTracking, tmp_path: Path) -> None:
    refused = tmp_path / "refused" / "tracker"
    refused.mkdir(parents=True)
    with pytest.raises(Failure, match="has no key MLFLOW_TRACKING_USERNAME and no key MLFLOW_TRACKING_PASSWORD"):
        send(stated, an_end(), refused.parent)
    (refused / "MLFLOW_TRACKING_TOKEN").write_text("of another")
    with pytest.raises(Exception, match=r"401.*who are you") as error:
        send(stated, an_end(), refused.parent)
    assert type(error.value).__name__ == "MlflowException", "which tracking.py knows"
    assert runs_at(stated)[1] == []
    send(stated, an_end("another"), tmp_path)
    send(stated, an_end(), tmp_path)
    send(stated, an_end(), tmp_path)  # a second attempt
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
