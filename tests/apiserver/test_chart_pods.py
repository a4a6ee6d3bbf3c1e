"""The chart's pods as they run: an operator of one namespace, and the quick-start store. Needs a kubelet and the images (IMAGES)."""

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from demo.kubectl import Kubectl, Object, wait_until
from demo.release import CHART
from finetune_api.pods import REPORT_PATH
from helm_release import Release, new_release

pytestmark = pytest.mark.apiserver


def image(name: str) -> Object:
    """An image as it was built for this cluster (IMAGES: a JSON file of name -> repository@digest)."""
    reference = json.loads(Path(os.environ["IMAGES"]).read_text())[name]
    return dict(zip(("repository", "digest"), reference.split("@"), strict=True))


def test_an_operator_of_one_namespace_runs_and_reports_are_encrypted(namespace: Kubectl, tmp_path: Path) -> None:
    """With the real group: nothing of the release but its name differs from what a user installs."""
    release = Release(namespace, CHART, new_release())
    host = f"{release.name}-finetune-operator.{namespace.namespace}.svc"
    certificate(namespace, tmp_path, host)
    values = {
        "image": image("operator"),
        "crds": {"enabled": False},
        "rbac": {"userRoles": False},
        "watchNamespaces": [namespace.namespace],
        "report": {"tls": {"secretName": "cert"}},
    }
    release.apply(values)
    try:
        namespace("rollout", "status", f"deployment/{release.name}-finetune-operator", "--timeout=120s")
        trusted = ssl.create_default_context(cafile=tmp_path / "tls.crt")
        with (
            namespace.port_forward(f"service/{release.name}-finetune-operator", 8080) as port,
            socket.create_connection(("127.0.0.1", port)) as plain,
            trusted.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            path = REPORT_PATH.format(namespace=namespace.namespace, name="job")
            encrypted.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
            assert encrypted.recv(1024).startswith(b"HTTP/1.1 401 ")
    finally:
        release.helm("uninstall", release.name)


def certificate(kubectl: Kubectl, folder: Path, host: str) -> None:
    """Secret ``cert``: a certificate that is its own CA."""
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=report"]
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run([*request, "-addext", f"subjectAltName=DNS:{host}", *files], check=True, capture_output=True)
    shutil.copy(folder / "tls.crt", folder / "ca.crt")
    parts = [f"--from-file={folder / name}" for name in ("tls.crt", "tls.key", "ca.crt")]
    kubectl("create", "secret", "generic", "cert", *parts)


def test_the_quick_start_store_keeps_keys_and_data(release: Release) -> None:
    kubectl = release.kubectl
    store = f"{release.name}-finetune-operator-s3"
    values = {"quickstart": {"enabled": True, "namespaces": [kubectl.namespace], "image": image("seaweedfs")}}
    release.apply(values)
    kubectl("rollout", "status", f"deployment/{store}", "--timeout=120s")
    before = kubectl.get("secret", "s3")["data"]
    write(kubectl, store)

    release.edit("Chart.yaml", "version: 0.1.0", "version: 0.1.1")
    release.apply(values)
    assert kubectl.get("secret", "s3")["data"] == before
    assert read(kubectl, store) == b"kept by an upgrade"

    kubectl("exec", f"deployment/{store}", "--", "sh", "-c", "kill 1")
    restarted(kubectl, store)
    assert read(kubectl, store) == b"kept by an upgrade"


def s3(kubectl: Kubectl, port: int) -> boto3.client:
    """A client with the Secret's keys."""
    secret = {key: base64.b64decode(value).decode() for key, value in kubectl.get("secret", "s3")["data"].items()}
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=secret["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secret["AWS_SECRET_ACCESS_KEY"],
        region_name=secret["AWS_REGION"],
        # Ready a moment before its volumes are: a restarted store answers 500 at first, which clients try again.
        config=Config(retries={"max_attempts": 10, "mode": "standard"}),
    )


def write(kubectl: Kubectl, store: str) -> None:
    """Put an object; a bucket nobody asked for is refused."""
    with kubectl.port_forward(f"service/{store}", 8333) as port:
        client = s3(kubectl, port)
        assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == {"data", "models"}
        client.put_object(Bucket="data", Key="a", Body=b"kept by an upgrade")
        with pytest.raises(client.exceptions.NoSuchBucket):
            client.put_object(Bucket="misspelt", Key="a", Body=b"")


def read(kubectl: Kubectl, store: str) -> bytes:
    """The object."""
    with kubectl.port_forward(f"service/{store}", 8333) as port:
        body: bytes = s3(kubectl, port).get_object(Bucket="data", Key="a")["Body"].read()
    return body


def restarted(kubectl: Kubectl, store: str) -> None:
    """Wait until the container was started again and is ready."""

    def ready() -> bool:
        (pod,) = kubectl.list("pods", "app.kubernetes.io/component=quickstart-s3")
        (status,) = pod["status"]["containerStatuses"]
        return bool(status["restartCount"] == 1 and status["ready"])

    wait_until(f"{store} is ready again", ready, 120)
