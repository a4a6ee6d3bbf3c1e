"""A real tracking server of MLflow on a port of its own, in this process, with SQLite; behind one password, as behind a proxy.

It is no part of the development environment: `make mlflow` puts beside it what the client's package lacks (requirements/mlflow.in).
"""

import hashlib
import os
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

LOCK = Path(__file__).parents[1] / "requirements" / "mlflow.txt"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator"
MLFLOW = CACHE / f"mlflow-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
NEEDED = pytest.mark.skipif(
    not (MLFLOW / "complete").exists(), reason="MLflow's server is not there: make mlflow downloads it (20 MB)"
)
USER, PASSWORD = "team", "secret of the team"


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Its address."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    sys.path.append(str(MLFLOW))  # last: what the environment has is the environment's
    from mlflow.server import app
    from mlflow.server.handlers import initialize_backend_stores
    from werkzeug.serving import make_server

    store = f"sqlite:///{folder}/mlflow.db"
    initialize_backend_stores(store, store, str(folder / "artifacts"))
    server = make_server("127.0.0.1", 0, _guarded(app), threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()
    sys.path.remove(str(MLFLOW))  # else libraries find things there that the environment does not have


def _guarded(app: Any) -> Any:
    expected = f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    def guard(environ: dict[str, Any], start: Any) -> Any:
        if environ.get("HTTP_AUTHORIZATION") == expected:
            return app(environ, start)
        start("401 Unauthorized", [("Content-Type", "text/plain")])
        return [b"who are you?"]

    return guard
