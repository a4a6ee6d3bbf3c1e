"""finetune_storage against a real S3 server: bytes, folders, and the reason of every way it can fail."""

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finetune_api.artifacts import Manifest
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.references import ModelRef
from finetune_storage import Store, commit_folder, fetch_folder, fetch_model, open_store, pin_model, sha256_of
from s3_server import S3Server, serve

LARGE = 40 * 2**20
"""Bytes that need several parts."""


@pytest.fixture
def store(bucket: str, secret: Path) -> Store:
    return open_store(f"{bucket}/folder", secret, patience=20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "adapter"
    (root / "deep").mkdir(parents=True)
    (root / "weights.safetensors").write_bytes(b"\x00\x01" * 1000)
    (root / "deep" / "config.json").write_text("{}")
    return root


def failure(action, *args, **kwargs) -> Failure:
    """The Failure an action ends with."""
    with pytest.raises(Failure) as caught:
        action(*args, **kwargs)
    return caught.value


@contextmanager
def https_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """A server with a certificate of its own that has nothing to give: its address, and the certificate."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *subject]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("localhost", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_port}", certificate
    finally:
        server.shutdown()
        server.server_close()


class TestObjects:
    def test_what_is_put_is_got_listed_and_deleted(self, store: Store, bucket: str) -> None:
        store.put("b.txt", b"two")
        store.put("a/c.txt", b"one")
        assert store.get("b.txt") == b"two"
        assert store.list() == ["a/c.txt", "b.txt"]
        assert store.list("a/") == ["a/c.txt"]
        assert store.exists("b.txt")
        assert store.uri("b.txt") == f"{bucket}/folder/b.txt"
        store.delete(["b.txt", "never-there"])
        assert not store.exists("b.txt")

    @pytest.mark.parametrize("name", ["team#a", "team?a", "team%23a", "team a"])
    def test_a_folder_may_have_any_name(self, store: Store, bucket: str, secret: Path, name: str) -> None:
        named = open_store(f"{bucket}/folder/{name}/", secret, patience=20)
        named.put("b.txt", b"two")
        assert store.list() == [f"{name}/b.txt"]
        assert (named.list(), named.get("b.txt")) == (["b.txt"], b"two")
        assert named.uri("b.txt") == f"{bucket}/folder/{name}/b.txt"

    def test_put_new_never_overwrites(self, store: Store) -> None:
        assert store.put_new("once", b"first")
        assert not store.put_new("once", b"second")
        assert store.put_new("once", b"first"), "the same bytes are no conflict: the first answer may have been lost"
        assert store.get("once") == b"first"

    def test_a_large_file_travels_in_parts(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "large"
        source.write_bytes(bytes(range(256)) * (LARGE // 256))
        entry = store.upload(source, "large")
        assert (entry.path, entry.size, entry.sha256) == ("large", LARGE, sha256_of(source))
        assert store.download("large", tmp_path / "back") == entry.sha256
        assert (tmp_path / "back").stat().st_size == LARGE

    def test_an_empty_object_is_an_object(self, store: Store, tmp_path: Path) -> None:
        store.put("empty", b"")
        store.download("empty", tmp_path / "empty")
        assert (tmp_path / "empty").read_bytes() == b""

    def test_the_empty_key_is_the_address_itself(self, store: Store, bucket: str, secret: Path) -> None:
        store.put("rows.jsonl", b"{}")
        assert open_store(f"{bucket}/folder/rows.jsonl", secret).get("") == b"{}"


class TestFolders:
    def test_a_committed_folder_comes_back_verified(self, store: Store, folder: Path, tmp_path: Path) -> None:
        digest = commit_folder(store, folder, "adapter", Manifest(kind="Adapter", files=[]))
        manifest = fetch_folder(store, "adapter", tmp_path / "back", digest)
        assert [entry.path for entry in manifest.files] == ["deep/config.json", "weights.safetensors"]
        assert (tmp_path / "back/weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()

    def test_committing_the_same_again_changes_nothing(self, store: Store, folder: Path) -> None:
        manifest = Manifest(kind="Adapter", files=[])
        assert commit_folder(store, folder, "adapter", manifest) == commit_folder(store, folder, "adapter", manifest)

    def test_a_folder_is_not_there_until_its_manifest_is(self, store: Store, folder: Path, tmp_path: Path) -> None:
        store.upload(folder / "weights.safetensors", "adapter/weights.safetensors")
        assert failure(fetch_folder, store, "adapter", tmp_path / "back", None).reason is Reason.ARTIFACT_CORRUPT

    def test_a_second_commit_hides_the_folder_until_it_is_whole(
        self, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit_folder(store, folder, "adapter", Manifest(kind="Adapter", files=[]))
        (folder / "weights.safetensors").write_bytes(b"other")

        def lost(*_: object) -> None:
            raise ConnectionError

        monkeypatch.setattr(store, "upload", lost)
        with pytest.raises(ConnectionError):
            commit_folder(store, folder, "adapter", Manifest(kind="Adapter", files=[]))
        assert not store.exists("adapter/manifest.json")

    def test_another_digest_is_refused_naming_both(self, store: Store, folder: Path, tmp_path: Path) -> None:
        digest = commit_folder(store, folder, "adapter", Manifest(kind="Adapter", files=[]))
        other = "sha256:" + "0" * 64
        end = failure(fetch_folder, store, "adapter", tmp_path / "back", other)
        assert end.reason is Reason.ARTIFACT_CORRUPT
        assert digest in end.message
        assert other in end.message

    def test_a_changed_file_is_refused(self, store: Store, folder: Path, tmp_path: Path) -> None:
        digest = commit_folder(store, folder, "adapter", Manifest(kind="Adapter", files=[]))
        store.put("adapter/deep/config.json", b'{"auto_map": 1}')
        end = failure(fetch_folder, store, "adapter", tmp_path / "back", digest)
        assert end.reason is Reason.ARTIFACT_CORRUPT
        assert "deep/config.json" in end.message

    @pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../evil", "a//b", "..\\evil"])
    def test_a_manifest_cannot_write_outside_its_folder(self, store: Store, tmp_path: Path, path: str) -> None:
        entry = {"path": path, "size": 1, "sha256": "0" * 64}
        manifest = Manifest.model_validate({"kind": "Adapter", "files": [entry]})
        store.put("adapter/manifest.json", manifest.model_dump_json(by_alias=True).encode())
        end = failure(fetch_folder, store, "adapter", tmp_path / "back", None)
        assert end.reason is Reason.ARTIFACT_CORRUPT
        assert "outside its folder" in end.message


class TestModels:
    def test_a_model_without_a_manifest_is_fetched_without_pickles_and_code(
        self, store: Store, bucket: str, secret: Path, tmp_path: Path
    ) -> None:
        for name in (
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "modeling.py",
            "original/model.safetensors",
            "consolidated.safetensors",  # the same weights again, in the layout of whoever trained them
        ):
            store.put(name, b"{}")
        ref = ModelRef(uri=f"{bucket}/folder")
        _, files = pin_model(ref, secret)
        assert "modeling.py" in files
        fetch_model(ref, tmp_path / "model", secret)
        assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]

    def test_of_weights_in_parts_those_of_the_index_are_fetched(
        self, store: Store, bucket: str, secret: Path, tmp_path: Path
    ) -> None:
        index, parts = "model.safetensors.index.json", [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
        store.put(index, json.dumps({"weight_map": {"a": parts[0], "b": parts[1], "c": parts[1]}}).encode())
        for name in (*parts, "consolidated.safetensors"):
            store.put(name, b"{}")
        fetch_model(ModelRef(uri=f"{bucket}/folder"), tmp_path / "model", secret)
        assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted([index, *parts])
        store.put(index, b"{}")
        end = failure(fetch_model, ModelRef(uri=f"{bucket}/folder"), tmp_path / "other", secret)
        assert f"{bucket}/folder: {index} does not say" in end.message

    def test_an_artifact_is_pinned_by_its_digest(
        self, store: Store, folder: Path, bucket: str, secret: Path, tmp_path: Path
    ) -> None:
        (folder / "weights.safetensors").rename(folder / "model.safetensors")
        digest = commit_folder(store, folder, "model", Manifest(kind="Model", files=[]))
        pinned, _ = pin_model(ModelRef(uri=f"{bucket}/folder/model"), secret)
        assert pinned.digest == digest
        store.put("model/model.safetensors", b"swapped")
        assert failure(fetch_model, pinned, tmp_path / "model", secret).reason is Reason.ARTIFACT_CORRUPT

    def test_a_model_that_is_not_there_is_named(self, bucket: str, secret: Path, tmp_path: Path) -> None:
        ref = ModelRef(uri=f"{bucket}/nowhere")
        for end in (failure(pin_model, ref, secret), failure(fetch_model, ref, tmp_path, secret)):
            assert end.reason is Reason.MODEL_NOT_FOUND
            assert f"{bucket}/nowhere" in end.message


class TestFailures:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"AWS_ACCESS_KEY_ID": "nobody"}, Reason.ACCESS_DENIED, id="an unknown key"),
            pytest.param({"AWS_SECRET_ACCESS_KEY": "wrong"}, Reason.ACCESS_DENIED, id="a wrong secret key"),
            pytest.param({"AWS_ENDPOINT_URL": "not a url"}, Reason.CONFIG_INVALID, id="an endpoint that is none"),
        ],
    )
    def test_wrong_credentials_are_refused_at_once(
        self, s3_server: S3Server, bucket: str, tmp_path: Path, changes: dict[str, str], reason: Reason
    ) -> None:
        secret = s3_server.secret(tmp_path / "s3", **changes)
        for action in ("get", "exists", "list", "put"):
            arguments = ("key", b"data") if action == "put" else ("key",)
            end = failure(lambda: getattr(open_store(bucket, secret), action)(*arguments))  # noqa: B023
            assert end.reason is reason, action
            assert "admin-secret" not in end.message
            assert "nobody" not in end.message

    def test_who_may_only_read_cannot_write(self, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
        store = open_store(bucket, s3_server.secret(tmp_path / "reader", identity="reader"))
        assert store.list() == []
        end = failure(store.put, "key", b"data")
        assert end.reason is Reason.OUTPUT_NOT_WRITABLE
        assert "may not write" in end.message

    def test_a_missing_object_and_a_missing_bucket_have_the_callers_reason(
        self, bucket: str, secret: Path, tmp_path: Path
    ) -> None:
        for uri, words in ((bucket, "does not exist"), ("s3://no-such-bucket", "bucket does not exist")):
            store = open_store(uri, secret, missing=Reason.DATASET_NOT_FOUND)
            for end in (failure(store.get, "rows.jsonl"), failure(store.download, "rows.jsonl", tmp_path / "rows")):
                assert end.reason is Reason.DATASET_NOT_FOUND
                assert words in end.message
                assert f"{uri}/rows.jsonl" in end.message
        assert failure(open_store("s3://no-such-bucket", secret).put, "a", b"").reason is Reason.OUTPUT_NOT_WRITABLE

    def test_an_address_of_another_store_is_refused(self) -> None:
        assert failure(open_store, "gs://bucket/folder").reason is Reason.CONFIG_INVALID

    def test_a_secret_without_its_keys_is_named(self, tmp_path: Path, bucket: str) -> None:
        end = failure(open_store, bucket, tmp_path / "s3", secret_wait=0)
        assert end.reason is Reason.SECRET_NOT_FOUND
        assert "'s3'" in end.message
        assert "AWS_ACCESS_KEY_ID" in end.message

    def test_a_secret_that_comes_late_is_waited_for(self, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
        late = threading.Timer(1, s3_server.secret, [tmp_path / "s3"])
        late.start()
        assert open_store(bucket, tmp_path / "s3", secret_wait=20).list() == []

    def test_a_secret_is_never_mixed_with_the_environment(
        self, s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of-somebody-else")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_REGION", "mars-1")
        assert open_store(bucket, s3_server.secret(tmp_path / "s3")).list() == []

    def test_without_a_secret_the_environment_decides(
        self, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "admin")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "admin-secret")
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
        assert open_store(bucket).list() == []

    def test_a_store_of_a_private_ca_needs_its_bundle(self, s3_server: S3Server, tmp_path: Path) -> None:
        with https_server(tmp_path) as (endpoint, certificate):
            secret = s3_server.secret(tmp_path / "s3", AWS_ENDPOINT_URL=endpoint)
            end = failure(open_store("s3://bucket", secret, patience=5).get, "key")
            assert end.reason is Reason.STORAGE_UNAVAILABLE
            assert "CA_BUNDLE" in end.message
            s3_server.secret(secret, AWS_ENDPOINT_URL=endpoint, CA_BUNDLE=certificate.read_text())
            store = open_store("s3://bucket", secret, missing=Reason.DATASET_NOT_FOUND, patience=5)
            assert failure(store.get, "key").reason is Reason.DATASET_NOT_FOUND

    def test_a_store_that_is_down_is_waited_for(self, tmp_path: Path) -> None:
        with serve(tmp_path / "server") as server:
            uri, secret = server.bucket("data"), server.secret(tmp_path / "s3")
            open_store(uri, secret).put("key", b"data")
            server.stop()
            back = threading.Timer(2, server.start)
            back.start()
            assert open_store(uri, secret, patience=60).get("key") == b"data"
            back.join()

    def test_a_store_that_stays_down_ends_it(self, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
        secret = s3_server.secret(tmp_path / "s3", AWS_ENDPOINT_URL="http://127.0.0.1:1")
        began = time.monotonic()
        end = failure(open_store(bucket, secret, patience=2).get, "key")
        assert end.reason is Reason.STORAGE_UNAVAILABLE
        assert 2 <= time.monotonic() - began < 20
