"""hf:// models and datasets against a played hub: only the endpoints huggingface_hub asks, answering as huggingface.co does."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.references import ModelRef
from finetune_storage import fetch_model, fetch_rows, pin_model

COMMIT = "c0ffee" * 6 + "c0ff"
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}

ROWS = {"data/train-0.jsonl": b"{}\n", "data/train-1.jsonl": b"{}\n{}\n", "data/test.jsonl": b"", "README.md": b""}


class Hub(BaseHTTPRequestHandler):
    """owner/open for everybody, owner/private with a token, owner/gated for nobody."""

    outages = 0
    """Answers of 503 still to give."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if Hub.outages > 0:
            Hub.outages -= 1
            return self.answer(503, b"")
        if "owner/gated" in path:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        if "owner/private" in path and self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        if "owner/open" not in path and "owner/private" not in path:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if path.startswith(("/api/models/", "/api/datasets/")):
            files = FILES if path.startswith("/api/models/") else ROWS
            if "/revision/" in path and not path.endswith(("/v1", COMMIT)):
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name} for name in files]
            return self.answer(200, json.dumps({"id": "owner/open", "sha": COMMIT, "siblings": siblings}).encode())
        data = (FILES | ROWS)[path.split(f"/resolve/{COMMIT}/")[1]]
        return self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    # huggingface_hub reads the environment once, on import, which may be long ago.
    from huggingface_hub import constants, hf_api

    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    assert hf_api.constants is constants
    monkeypatch.setattr(Hub, "outages", 0)
    yield
    server.shutdown()
    server.server_close()


def failure(uri: str, secrets: Path | None = None, revision: str | None = None, patience: float = 5) -> Failure:
    with pytest.raises(Failure) as caught:
        pin_model(ModelRef(uri=uri, revision=revision), secrets, patience=patience, secret_wait=0)
    return caught.value


def token(folder: Path, value: str) -> Path:
    (folder / "hub").mkdir(parents=True)
    (folder / "hub" / "HF_TOKEN").write_text(value)
    return folder / "hub"


def test_a_model_is_pinned_to_its_commit_and_fetched_without_pickles(tmp_path: Path) -> None:
    pinned, files = pin_model(ModelRef(uri="hf://owner/open", revision="v1"), None)
    assert pinned.revision == COMMIT
    assert files == sorted(FILES)
    fetch_model(pinned, tmp_path / "model", None)
    fetched = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir() if path.is_file()}
    assert fetched == {name: data for name, data in FILES.items() if name != "pytorch_model.bin"}


def test_a_private_model_needs_the_token(tmp_path: Path) -> None:
    assert "private" in failure("hf://owner/private").message
    assert failure("hf://owner/private", token(tmp_path / "a", "hf_wrong")).reason is Reason.MODEL_NOT_FOUND
    pinned, _ = pin_model(ModelRef(uri="hf://owner/private"), token(tmp_path / "b", "hf_right\n"))
    assert pinned.revision == COMMIT


@pytest.mark.parametrize(
    ("uri", "revision", "reason", "words"),
    [
        pytest.param("hf://owner/gated", None, Reason.ACCESS_DENIED, "accept its terms", id="gated"),
        pytest.param("hf://owner/none", None, Reason.MODEL_NOT_FOUND, "does not exist", id="missing"),
        pytest.param("hf://owner/open", "v9", Reason.MODEL_NOT_FOUND, "no revision v9", id="missing revision"),
        pytest.param("hf://a/b/c", None, Reason.CONFIG_INVALID, "hf://owner/name", id="no name of a model"),
    ],
)
def test_failures_are_named(uri: str, revision: str | None, reason: Reason, words: str) -> None:
    end = failure(uri, revision=revision)
    assert end.reason is reason
    assert words in end.message
    assert uri in end.message


def test_a_hub_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub.outages = 2
    assert pin_model(ModelRef(uri="hf://owner/open"), None, patience=60)[0].revision == COMMIT


def test_a_hub_that_stays_down_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub.outages = 10_000
    assert failure("hf://owner/open", patience=1).reason is Reason.STORAGE_UNAVAILABLE
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert failure("hf://owner/open", patience=1).reason is Reason.STORAGE_UNAVAILABLE


class TestDatasets:
    def test_a_pattern_stands_for_several_files_of_one_commit(self, tmp_path: Path) -> None:
        files = fetch_rows("hf://datasets/owner/open@v1/data/train-*.jsonl", tmp_path, None)
        assert {file.name: file.path.read_bytes() for file in files} == {
            f"hf://datasets/owner/open@{COMMIT[:12]}/{name}": ROWS[name]
            for name in ("data/train-0.jsonl", "data/train-1.jsonl")
        }

    def test_a_private_one_needs_the_token(self, tmp_path: Path) -> None:
        uri = "hf://datasets/owner/private/data/test.jsonl"
        with pytest.raises(Failure, match=r"private.*dataset\.secretRef") as end:
            fetch_rows(uri, tmp_path, None)
        assert end.value.reason is Reason.DATASET_NOT_FOUND
        assert len(fetch_rows(uri, tmp_path, token(tmp_path, "hf_right"))) == 1

    @pytest.mark.parametrize(
        ("uri", "reason", "words"),
        [
            ("hf://datasets/owner/open/nothing.csv", Reason.DATASET_NOT_FOUND, "there is no such file"),
            ("hf://datasets/owner/open/data/*.csv", Reason.DATASET_NOT_FOUND, "no file there matches"),
            ("hf://datasets/owner/open@v9/data/", Reason.DATASET_NOT_FOUND, "no revision v9"),
            ("hf://datasets/owner", Reason.CONFIG_INVALID, "owner/name/file"),
        ],
    )
    def test_failures_are_named(self, tmp_path: Path, uri: str, reason: Reason, words: str) -> None:
        with pytest.raises(Failure) as end:
            fetch_rows(uri, tmp_path, None, patience=5)
        assert end.value.reason is reason
        assert words in end.value.message
