"""A real tracking server of MLflow on a port of its own, in this process, with SQLite; behind one password, as behind a proxy.

It is no part of the development environment: `make mlflow` puts beside it what the client's package lacks (requirements/mlflow.in).
"""

import os
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import beside
from finetune_api.v1alpha1.tracking import MlflowTracking

MLFLOW = beside.folder_of("mlflow")
NEEDED = pytest.mark.skipif(
    not (MLFLOW / "complete").exists(), reason="MLflow's server is not there: make mlflow downloads it (20 MB)"
)
USER, PASSWORD = "team", "secret of the team"


def secret(folder: Path) -> Path:
    """A Secret with the password, as the kubelet mounts it."""
    folder.mkdir(parents=True)
    (folder / "MLFLOW_TRACKING_USERNAME").write_text(USER)
    (folder / "MLFLOW_TRACKING_PASSWORD").write_text(PASSWORD)
    return folder


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[str]:
    """Its address. A process has one database, that of its first server: a test names an experiment of its own."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    sys.path.append(str(MLFLOW))  # last: what the environment has is the environment's
    from mlflow.server import app
    from mlflow.server.handlers import initialize_backend_stores
    from werkzeug.serving import make_server

    store = f"sqlite:///{folder}/mlflow.db"
    initialize_backend_stores(store, store, str(folder / "artifacts"))
    server = make_server("127.0.0.1", port, _guarded(app), threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        sys.path.remove(str(MLFLOW))  # else libraries find things there that the environment does not have


def runs_at(stated: MlflowTracking) -> Any:
    """The server's store, and the experiment's runs in it."""
    from mlflow.entities import ViewType
    from mlflow.server.handlers import _get_tracking_store

    store = _get_tracking_store()
    experiment = store.get_experiment_by_name(stated.experiment)
    return store, store.search_runs([experiment.experiment_id], "", ViewType.ACTIVE_ONLY) if experiment else []


def run_at(stated: MlflowTracking) -> Any:
    """The only run of the experiment."""
    [run] = runs_at(stated)[1]
    return run


def curve_at(stated: MlflowTracking, name: str = "loss") -> list[tuple[int, float]]:
    """Step and value of all that the experiment's runs have been sent, by step; empty where there is none."""
    store, runs = runs_at(stated)
    found = (each for run in runs for each in store.get_metric_history(run.info.run_id, name))
    return sorted((each.step, each.value) for each in found)


def until(seen: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def _guarded(app: Any) -> Any:
    expected = f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    def guard(environ: dict[str, Any], start: Any) -> Any:
        if environ.get("HTTP_AUTHORIZATION") == expected:
            return app(environ, start)
        start("401 Unauthorized", [("Content-Type", "text/plain")])
        return [b"who are you?"]

    return guard
