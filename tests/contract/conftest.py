"""Contract tests talk to a real S3 server (SeaweedFS on this machine); the hub, providers and Weights & Biases are played.

One server per test process; each test gets a bucket and a mounted Secret of its own.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from finetune_storage import Store, open_store
from openai_stand_in import KEY, OpenAI
from prepare_stage import Prepare
from s3_server import S3Server, serve
from tiny_models import write_tiny_llama
from vertex_stand_in import Vertex, write_credentials

# Before torch is imported: one thread here as in the processes the tests start, so that sums are made in one order.
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is a contract test, but what needs a GPU."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.contract)


def pytest_sessionfinish() -> None:
    """Else native libraries report what light_collections keeps as leaked."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def light_collections() -> None:
    """Libraries collect garbage in every training, more than a second each: what is there by now is not looked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The shared server; a test that stops one starts its own with s3_server.serve."""
    with serve(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """Address of a fresh bucket."""
    return s3_server.bucket(f"test-{uuid4().hex[:12]}")


@pytest.fixture
def secret(s3_server: S3Server, tmp_path: Path) -> Path:
    """Folder of a mounted Secret named s3, with every right."""
    return s3_server.secret(tmp_path / "secrets" / "s3")


@pytest.fixture
def secrets_dir(secret: Path) -> Path:
    """Folder of the mounted Secrets."""
    return secret.parent


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delegates pause for a moment only."""
    from finetune_delegate import openai_service, patience, vertex_service

    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.01)
    for service in (openai_service, vertex_service):
        monkeypatch.setattr(service, "RENEWAL_SECONDS", 0.05)


@pytest.fixture
def openai(tmp_path: Path) -> Iterator[OpenAI]:
    """A service with OpenAI's API, played, and its key in a mounted Secret named openai."""
    service = OpenAI()
    key = tmp_path / "secrets" / "openai"
    key.mkdir(parents=True)
    (key / "OPENAI_API_KEY").write_text(f"{KEY}\n")
    yield service
    service.close()


@pytest.fixture
def vertex(tmp_path: Path) -> Iterator[Vertex]:
    """Google, played, and its credentials in a mounted Secret named google."""
    service = Vertex()
    write_credentials(tmp_path / "secrets" / "google", service)
    yield service
    service.close()


@pytest.fixture
def store(bucket: str, secret: Path) -> Store:
    """Root of the test's bucket."""
    return open_store(bucket, secret, patience=20)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture
def base(tiny_llama: Path, store: Store) -> str:
    """Address of a tiny base model."""
    for path in tiny_llama.iterdir():
        store.upload(path, f"base/{path.name}")
    return store.uri("base")


@pytest.fixture
def prepare(bucket: str, base: str, store: Store, tmp_path: Path) -> Prepare:
    """The prepare stage on a job with that base model."""
    return Prepare(bucket, base, store, tmp_path)
