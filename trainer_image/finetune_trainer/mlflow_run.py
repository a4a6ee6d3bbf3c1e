"""The run at an MLflow tracking server: a job's settings, figures and where its artifact lies. Called by :mod:`finetune_trainer.tracking`."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune_api.artifacts import Resolved
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, EvaluationStatus
from finetune_api.v1alpha1.tracking import MlflowTracking
from finetune_storage.credentials import read_secret

BOUNDS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; the library waits for minutes, and a GPU with it
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""The library takes them from the environment only."""
UID = "finetune.dev/uid"
TOKEN = "MLFLOW_TRACKING_TOKEN"
PASSWORD = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
METRICS_AT_ONCE = 1000
"""A request takes no more; the others are MLflow's bounds, too."""
LONGEST_PARAMETER = 500
LONGEST_TAG = 5000


@dataclass(frozen=True)
class Ended:
    """A training that is over."""

    resolved: Resolved
    lines: list[dict[str, Any]]
    """Of metrics.jsonl."""
    artifact: ArtifactStatus
    evaluation: EvaluationStatus | None


def send(stated: MlflowTracking, ended: Ended, secrets_dir: Path) -> None:
    """Make the job's run, in place of what an earlier attempt made. Raises MlflowException, or Failure about the Secret."""
    os.environ |= BOUNDS
    from mlflow.entities import Param, RunStatus, RunTag, ViewType
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.utils.rest_utils import MlflowHostCreds

    # The store below MlflowClient: that one takes credentials from the environment only.
    host = MlflowHostCreds(stated.uri, **_credentials(stated, secrets_dir))
    server, resolved = RestStore(lambda: host), ended.resolved
    experiment = _experiment(server, stated.experiment)
    for earlier in server.search_runs([experiment], f"tags.`{UID}` = '{resolved.uid}'", ViewType.ACTIVE_ONLY):
        server.delete_run(earlier.info.run_id)
    times = [_milliseconds(line["time"]) for line in ended.lines] or [0]
    tags = [RunTag(name, value[:LONGEST_TAG]) for name, value in _tags(ended)]
    name = stated.run_name or f"{resolved.namespace}/{resolved.name}"
    run = server.create_run(experiment, resolved.namespace, times[0], tags, name).info.run_id
    server.log_batch(run, [], [Param(name, value[:LONGEST_PARAMETER]) for name, value in _parameters(resolved)], [])
    metrics = list(_metrics(ended))
    for first in range(0, len(metrics), METRICS_AT_ONCE):
        server.log_batch(run, metrics[first : first + METRICS_AT_ONCE], [], [])
    server.update_run_info(run, RunStatus.FINISHED, times[-1], name)


def _credentials(stated: MlflowTracking, secrets_dir: Path) -> dict[str, str]:
    if stated.secret_ref is None:
        return {}
    folder = secrets_dir / stated.secret_ref.name
    if (folder / TOKEN).is_file():
        return {"token": read_secret(folder, (TOKEN,), 0)[TOKEN]}
    found = read_secret(folder, PASSWORD, 0)  # it is mounted since the pod began
    return dict(zip(("username", "password"), (found[key] for key in PASSWORD), strict=True))


def _experiment(server: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = server.get_experiment_by_name(name)
    if found is None:
        try:
            return str(server.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = server.get_experiment_by_name(name)  # another job was first
    return str(found.experiment_id)


def _tags(ended: Ended) -> Iterator[tuple[str, str]]:
    yield "finetune.dev/job", f"{ended.resolved.namespace}/{ended.resolved.name}"
    yield UID, ended.resolved.uid
    yield "finetune.dev/artifact", ended.artifact.uri
    yield "finetune.dev/digest", ended.artifact.digest


def _parameters(resolved: Resolved) -> Iterator[tuple[str, str]]:
    base = resolved.base_model
    yield "method", resolved.method
    if base.uri is not None:
        yield "baseModel", base.uri
    for part, settings in (("adapter", resolved.adapter.wire()), ("training", resolved.training.wire())):
        for name, value in settings.items():
            yield f"{part}.{name}", value if isinstance(value, str) else json.dumps(value)


def _metrics(ended: Ended) -> Iterator[Any]:
    """Each logged step's figures, and at the last those of the evaluation."""
    from mlflow.entities import Metric

    for line in ended.lines:
        for name, value in line.items():
            if name != "step" and not isinstance(value, str):
                yield Metric(name, value, _milliseconds(line["time"]), line["step"])
    if ended.evaluation is not None and ended.lines:
        last = ended.lines[-1]
        for model, figures in (("base", ended.evaluation.base), ("tuned", ended.evaluation.tuned)):
            for name, value in (figures or {}).items():
                yield Metric(f"{model}.{name}", value, _milliseconds(last["time"]), last["step"])


def _milliseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)
