"""A job's run at an MLflow tracking server: its settings, its curves and where its artifact lies.

:mod:`finetune_trainer.mlflow_live` opens it when a training begins, :mod:`finetune_trainer.tracking` completes it at the end. MLflow
keeps every value it is sent: none is sent of which the run has one, by name and step.
"""

import importlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from math import isclose, isfinite
from pathlib import Path
from typing import Any

from finetune_api.artifacts import Resolved
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, EvaluationStatus
from finetune_api.v1alpha1.tracking import MlflowTracking
from finetune_storage.credentials import read_secret

BOUNDS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; the library waits for minutes, and a GPU with it
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""The library takes them from the environment only."""
RETRIES = 2
"""At the end of a training."""
UID = "finetune.dev/uid"
TOKEN = "MLFLOW_TRACKING_TOKEN"
PASSWORD = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
METRICS_AT_ONCE = 1000
"""A request takes no more; the others are MLflow's bounds, too."""
LONGEST_PARAMETER = 500
LONGEST_TAG = 5000
SPEED = "tokensPerSecond"
"""Of the machine, not of the course."""
ROUNDING = 0.01
"""Share by which a step that was taken twice may differ: on a GPU the last bits do."""


@dataclass(frozen=True)
class Ended:
    """A training that is over."""

    resolved: Resolved
    lines: list[dict[str, Any]]
    """Of metrics.jsonl."""
    artifact: ArtifactStatus
    evaluation: EvaluationStatus | None


class Run:
    """A run, and what the server has of its curves."""

    def __init__(self, server: Any, info: Any, metrics: Iterable[Any]) -> None:
        self._server, self._id, self._name = server, info.run_id, info.run_name
        self._has = _values(metrics)

    def log(self, metrics: Iterable[Any]) -> None:
        """Send those of which the server has none."""
        new = [metric for metric in metrics if (metric.key, metric.step) not in self._has]
        for first in range(0, len(new), METRICS_AT_ONCE):
            some = new[first : first + METRICS_AT_ONCE]
            self._server.log_batch(self._id, some, [], [])
            self._has |= _values(some)

    def contradicts(self, metrics: list[Any]) -> bool:
        """Whether the server has a value that is none of these: of steps that were lost, and came out otherwise when taken again."""
        true = _values(metrics)
        course = {point: value for point, value in self._has.items() if point[0] != SPEED}
        return any(point not in true or not _is_same(value, true[point]) for point, value in course.items())

    def tag(self, tags: dict[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self._server.log_batch(self._id, [], [], [RunTag(name, value[:LONGEST_TAG]) for name, value in tags.items()])

    def set_status(self, status: str, ended: int | None) -> None:
        """``status`` is a name of MLflow's RunStatus, ``ended`` in milliseconds."""
        from mlflow.entities import RunStatus

        self._server.update_run_info(self._id, RunStatus.from_string(status), ended, self._name)

    def delete(self) -> None:
        """Into the server's bin."""
        self._server.delete_run(self._id)


def load(retries: int) -> None:
    """Import the library, and bound its requests. In the main thread: another one should neither import nor set variables."""
    os.environ |= BOUNDS | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    importlib.import_module("mlflow.store.tracking.rest_store")


def begin(stated: MlflowTracking, resolved: Resolved, secrets_dir: Path, now: int) -> Run:
    """The job's run, which may have ended with an earlier attempt, runs; ``now`` in milliseconds. Raises as :func:`send` does."""
    run = _open(_connect(stated, secrets_dir), stated, resolved, now)
    run.set_status("RUNNING", None)
    return run


def send(stated: MlflowTracking, ended: Ended, secrets_dir: Path) -> None:
    """Make the job's run whole, whatever was sent of it before. Raises MlflowException, or Failure about the Secret."""
    load(RETRIES)
    server, metrics = _connect(stated, secrets_dir), list(_all_metrics(ended))
    times = [_milliseconds(line["time"]) for line in ended.lines] or [0]
    run = _open(server, stated, ended.resolved, times[0])
    if run.contradicts(metrics):
        run.delete()
        run = _open(server, stated, ended.resolved, times[0])
    run.log(metrics)
    run.tag({"finetune.dev/artifact": ended.artifact.uri, "finetune.dev/digest": ended.artifact.digest})
    run.set_status("FINISHED", times[-1])


def metrics_of(line: dict[str, Any]) -> Iterator[Any]:
    """The figures of a logged step."""
    from mlflow.entities import Metric

    for name, value in line.items():
        if name != "step" and not isinstance(value, str):
            yield Metric(name, value, _milliseconds(line["time"]), line["step"])


def _connect(stated: MlflowTracking, secrets_dir: Path) -> Any:
    """The store below MlflowClient: that one takes credentials from the environment only. Asks nothing yet."""
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.utils.rest_utils import MlflowHostCreds

    host = MlflowHostCreds(stated.uri, **_credentials(stated, secrets_dir))
    return RestStore(lambda: host)


def _open(server: Any, stated: MlflowTracking, resolved: Resolved, began: int) -> Run:
    """The run with the job's uid, made where there is none, as of ``began`` (milliseconds); with the job's settings."""
    from mlflow.entities import Param, RunTag, ViewType

    experiment = _experiment(server, stated.experiment)
    runs = server.search_runs([experiment], f"tags.`{UID}` = '{resolved.uid}'", ViewType.ACTIVE_ONLY)
    for double in runs[1:]:  # of a request whose answer was lost
        server.delete_run(double.info.run_id)
    job = f"{resolved.namespace}/{resolved.name}"
    tags = [RunTag("finetune.dev/job", job), RunTag(UID, resolved.uid)]
    name = stated.run_name or job
    run = runs[0] if runs else server.create_run(experiment, resolved.namespace, began, tags, name)
    new = [(name, value[:LONGEST_PARAMETER]) for name, value in _parameters(resolved) if name not in run.data.params]
    if new:
        server.log_batch(run.info.run_id, [], [Param(name, value) for name, value in new], [])
    histories = (server.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
    return Run(server, run.info, (metric for history in histories for metric in history))


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


def _parameters(resolved: Resolved) -> Iterator[tuple[str, str]]:
    base = resolved.base_model
    yield "method", resolved.method
    if base.uri is not None:
        yield "baseModel", base.uri
    for part, settings in (("adapter", resolved.adapter.wire()), ("training", resolved.training.wire())):
        for name, value in settings.items():
            yield f"{part}.{name}", value if isinstance(value, str) else json.dumps(value)


def _all_metrics(ended: Ended) -> Iterator[Any]:
    """Each logged step's figures, and at the last those of the evaluation."""
    from mlflow.entities import Metric

    for line in ended.lines:
        yield from metrics_of(line)
    if ended.evaluation is not None and ended.lines:
        last = ended.lines[-1]
        for model, figures in (("base", ended.evaluation.base), ("tuned", ended.evaluation.tuned)):
            for name, value in (figures or {}).items():
                yield Metric(f"{model}.{name}", value, _milliseconds(last["time"]), last["step"])


def _values(metrics: Iterable[Any]) -> dict[tuple[str, int], float]:
    return {(each.key, each.step): each.value for each in metrics}


def _is_same(sent: float, true: float) -> bool:
    """But for rounding; what is no number is another one at the server."""
    return not isfinite(true) or isclose(sent, true, rel_tol=ROUNDING, abs_tol=1e-6)


def _milliseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)
