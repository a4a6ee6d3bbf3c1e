"""What storage errors mean, and how long they are waited out."""

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError, SSLError

from finetune_api.reasons import Failure, Reason
from finetune_storage import open_store, patience
from finetune_storage.credentials import read_secret
from finetune_storage.errors import verdict
from finetune_storage.patience import patiently

URI = "s3://bucket/key"


def answer(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Any")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(answer("SlowDown", 503), id="slow down"),
        pytest.param(answer("InternalError", 500), id="an error of the store"),
        pytest.param(answer("InternalError", 200), id="an error within a completed upload's answer"),
        pytest.param(answer("Anything", 502), id="a bad gateway"),
        pytest.param(answer("TooManyRequests", 429), id="too many requests"),
        pytest.param(answer("ConditionalRequestConflict", 409), id="two conditional writes at once"),
        pytest.param(EndpointConnectionError(endpoint_url="http://x"), id="connection refused"),
        pytest.param(ReadTimeoutError(endpoint_url="http://x"), id="a timeout"),
    ],
)
def test_what_may_pass(error: Exception) -> None:
    assert verdict(error, URI, Reason.DATASET_NOT_FOUND, writing=False) is None


@pytest.mark.parametrize(
    ("error", "writing", "reason"),
    [
        pytest.param(answer("NoSuchKey", 404), False, Reason.DATASET_NOT_FOUND, id="a missing object"),
        pytest.param(answer("404", 404), False, Reason.DATASET_NOT_FOUND, id="a missing object, by HEAD"),
        pytest.param(answer("NoSuchBucket", 404), False, Reason.DATASET_NOT_FOUND, id="a missing bucket"),
        pytest.param(
            answer("NoSuchBucket", 404), True, Reason.OUTPUT_NOT_WRITABLE, id="a missing bucket to write into"
        ),
        pytest.param(answer("AccessDenied", 403), False, Reason.ACCESS_DENIED, id="may not read"),
        pytest.param(answer("AccessDenied", 403), True, Reason.OUTPUT_NOT_WRITABLE, id="may read but not write"),
        pytest.param(answer("InvalidAccessKeyId", 403), True, Reason.ACCESS_DENIED, id="an unknown key"),
        pytest.param(answer("SignatureDoesNotMatch", 403), True, Reason.ACCESS_DENIED, id="a wrong secret key"),
        pytest.param(answer("ExpiredToken", 400), False, Reason.ACCESS_DENIED, id="an expired token"),
        pytest.param(answer("InvalidArgument", 400), False, Reason.INTERNAL_ERROR, id="a request that is wrong"),
        pytest.param(NoCredentialsError(), False, Reason.ACCESS_DENIED, id="no credentials"),
    ],
)
def test_what_ends_it(error: Exception, writing: bool, reason: Reason) -> None:
    end = verdict(error, URI, Reason.DATASET_NOT_FOUND, writing=writing)
    assert end is not None
    assert end.reason is reason
    assert URI in end.message


def asked(port: int, ca_bundle: Path | None = None) -> Exception:
    """What boto3 raises when a store on this port is asked for an object."""
    client = boto3.client(
        "s3",
        endpoint_url=f"https://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        verify=str(ca_bundle) if ca_bundle else None,
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(SSLError) as raised:
        client.head_object(Bucket="bucket", Key="key")
    return raised.value


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose first caller gets this answer."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        answered = thread.submit(lambda: answer(server.accept()[0]))
        yield server.getsockname()[1]
        answered.result(10)


def without_tls(caller: socket.socket) -> None:
    """As a load balancer does whose backends are away."""
    with caller:
        caller.recv(1)
        caller.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        caller.recv(4096)


def with_a_certificate_of_its_own(folder: Path) -> Callable[[socket.socket], None]:
    pem = folder / "own.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", pem, "-out", folder / "cert.pem"]
    subprocess.run([*made, "-subj", "/CN=127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", pem)

    def answer(caller: socket.socket) -> None:
        with suppress(ssl.SSLError), caller:  # the client's alert
            context.wrap_socket(caller, server_side=True)

    return answer


class TestTls:
    def test_a_certificate_nobody_vouches_for_ends_it(self, tmp_path: Path) -> None:
        with listener(with_a_certificate_of_its_own(tmp_path)) as port:
            end = verdict(asked(port), URI, Reason.DATASET_NOT_FOUND, writing=False)
        assert end is not None
        assert end.reason is Reason.STORAGE_UNAVAILABLE
        assert "CA_BUNDLE" in end.message

    def test_a_bundle_that_is_none_ends_it(self, tmp_path: Path) -> None:
        bundle = tmp_path / "CA_BUNDLE"
        bundle.write_text("not a certificate")
        with socket.create_server(("127.0.0.1", 0)) as server:
            end = verdict(asked(server.getsockname()[1], bundle), URI, Reason.DATASET_NOT_FOUND, writing=False)
        assert end is not None
        assert "CA_BUNDLE" in end.message

    def test_an_answer_that_is_no_tls_may_pass(self) -> None:
        with listener(without_tls) as port:
            assert verdict(asked(port), URI, Reason.DATASET_NOT_FOUND, writing=False) is None


def test_a_bug_stays_a_bug() -> None:
    with pytest.raises(ZeroDivisionError):
        verdict(ZeroDivisionError(), URI, Reason.DATASET_NOT_FOUND, writing=False)


def test_it_goes_on_once_the_store_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.001)
    tries = iter([ConnectionError(), ConnectionError(), None])

    def action() -> str:
        if error := next(tries):
            raise error
        return "done"

    assert patiently(action, URI, 10, lambda error: None) == "done"


def test_patience_ends() -> None:
    def action() -> None:
        raise ConnectionError

    with pytest.raises(Failure) as end:
        patiently(action, URI, 0, lambda error: None)
    assert end.value.reason is Reason.STORAGE_UNAVAILABLE
    assert "ConnectionError" in end.value.message


class TestSecret:
    def test_it_is_the_whole_identity(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://somebody.else")
        monkeypatch.setenv("AWS_REGION", "mars-1")
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            (tmp_path / key).write_text("x")
        found = open_store("s3://bucket", tmp_path)._client.meta
        assert found.endpoint_url == "https://s3.amazonaws.com"
        assert found.region_name == "us-east-1"

    def test_white_space_around_a_value_is_not_part_of_it(self, tmp_path: Path) -> None:
        (tmp_path / "HF_TOKEN").write_text("hf_x\n")
        assert read_secret(tmp_path, ("HF_TOKEN",), 0) == {"HF_TOKEN": "hf_x"}
        (tmp_path / "keystore.jks").write_bytes(b"\xfe\xed\xfe\xed")
        assert read_secret(tmp_path, ("HF_TOKEN",), 0)["HF_TOKEN"] == "hf_x"

    def test_an_empty_key_is_missing(self, tmp_path: Path) -> None:
        folder = tmp_path / "hub"
        folder.mkdir()
        (folder / "HF_TOKEN").write_text("\n")
        with pytest.raises(Failure) as end:
            read_secret(folder, ("HF_TOKEN",), 0)
        assert end.value.reason is Reason.SECRET_NOT_FOUND
        assert "'hub' has no key HF_TOKEN" in end.value.message

    def test_the_kubelets_own_links_are_no_keys(self, tmp_path: Path) -> None:
        data = tmp_path / "..2026"
        data.mkdir()
        (data / "HF_TOKEN").write_text("x")
        (tmp_path / "..data").symlink_to(data)
        (tmp_path / "HF_TOKEN").symlink_to(tmp_path / "..data" / "HF_TOKEN")
        assert read_secret(tmp_path, ("HF_TOKEN",), 0) == {"HF_TOKEN": "x"}
