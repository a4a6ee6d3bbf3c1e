"""An S3 address and what can be done below it; the only user of boto3.

Talks to AWS and to stores that speak S3 (SeaweedFS, MinIO, Ceph): a custom endpoint gets path-style addresses, and checksums
go only where the protocol requires them, since those stores refuse the trailing CRCs boto3 sends by default.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader
from botocore.session import get_session

from finetune_api.artifacts import FileEntry
from finetune_api.pods import SECRET_WAIT_SECONDS
from finetune_api.reasons import Failure, Reason
from finetune_storage.credentials import S3_KEYS, read_secret
from finetune_storage.errors import MISSING, code_of, status_of, verdict
from finetune_storage.patience import patiently

T = TypeVar("T")

S3 = "s3://"
DEFAULT_REGION = "us-east-1"
PATIENCE_SECONDS = 600.0
MULTIPART = TransferConfig(multipart_threshold=16 * 2**20, multipart_chunksize=16 * 2**20, max_concurrency=4)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_store(
    uri: str,
    secrets: Path | None = None,
    *,
    missing: Reason = Reason.ARTIFACT_CORRUPT,
    patience: float = PATIENCE_SECONDS,
    secret_wait: float = SECRET_WAIT_SECONDS,
) -> "Store":
    """The store at an s3:// address.

    ``secrets`` is the folder of a mounted Secret; without it the default chain decides (workload identity). ``missing`` is
    the reason that something absent stands for, ``patience`` how long an unreachable store is waited for.
    """
    bucket, _, folder = uri.removeprefix(S3).partition("/")  # no URL: a key may hold any character, # and ? too
    if not uri.startswith(S3) or not bucket:
        raise Failure(Reason.CONFIG_INVALID, f"{uri}: expected s3://bucket/folder; other stores are not supported yet")
    values = read_secret(secrets, S3_KEYS, secret_wait) if secrets else {}
    try:
        client = _client(values, secrets)
    except (BotoCoreError, ValueError) as error:
        raise Failure(Reason.CONFIG_INVALID, f"{uri}: the store's settings are not usable: {error}") from None
    return Store(client, bucket, folder.strip("/"), missing, patience)


def _client(values: dict[str, str], secrets: Path | None) -> Any:
    """A client of this Secret alone, or of the environment alone: never a mix of two identities."""
    inner = get_session()
    inner.register_component("data_loader", _descriptions())
    session = boto3.session.Session(
        botocore_session=inner,
        aws_access_key_id=values.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=values.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=values.get("AWS_SESSION_TOKEN") or None,
        region_name=values.get("AWS_REGION") or (DEFAULT_REGION if secrets else None),
    )
    endpoint = values.get("AWS_ENDPOINT_URL") or None
    return session.client(
        "s3",
        region_name=session.region_name or DEFAULT_REGION,
        endpoint_url=endpoint,
        verify=str(secrets / "CA_BUNDLE") if secrets and values.get("CA_BUNDLE") else None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=secrets is not None,
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 2},
        ),
    )


@cache
def _descriptions() -> Loader:
    """boto3's descriptions of the protocol, a megabyte of JSON: parsed once a process, not for every store it opens."""
    return Loader(include_default_search_paths=True)


class Store:
    """Everything below one address. Keys are relative to it; the key "" is the address itself."""

    def __init__(self, client: Any, bucket: str, prefix: str, missing: Reason, patience: float) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._missing = missing
        self._patience = patience

    def uri(self, key: str = "") -> str:
        """The full address of a key."""
        return f"s3://{self._bucket}/{self._key(key)}".rstrip("/")

    def get(self, key: str) -> bytes:
        """The bytes of an object."""

        def read() -> bytes:
            return bytes(self._client.get_object(Bucket=self._bucket, Key=self._key(key))["Body"].read())

        return self._patiently(read, key)

    def put(self, key: str, data: bytes) -> None:
        """Write an object, over an earlier one too."""
        self._put(key, data)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; whether the key now holds ``data``.

        A store that does not know If-None-Match writes over the earlier object.
        """
        try:
            self._put(key, data, IfNoneMatch="*")
        except _Exists:
            return self.get(key) == data  # equal where the answer to our own first try was lost
        return True

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        def write() -> None:
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data, **condition)
            except ClientError as error:
                if status_of(error) == 412:
                    raise _Exists from None
                raise

        self._patiently(write, key, writing=True)

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""

        def look() -> bool:
            try:
                self._client.head_object(Bucket=self._bucket, Key=self._key(key))
            except ClientError as error:
                if code_of(error) in MISSING:
                    return False
                raise
            return True

        return self._patiently(look, key)

    def list(self, prefix: str = "") -> list[str]:
        """Keys that begin with ``prefix``, sorted."""
        root = f"{self._prefix}/" if self._prefix else ""

        def pages() -> list[str]:
            paginator = self._client.get_paginator("list_objects_v2")
            found = paginator.paginate(Bucket=self._bucket, Prefix=root + prefix)
            return sorted(item["Key"].removeprefix(root) for page in found for item in page.get("Contents", []))

        return self._patiently(pages, prefix)

    def download(self, key: str, path: Path) -> str:
        """Write an object to a file; its sha256."""

        def fetch() -> None:
            # A GET before the transfer: that begins with a HEAD, whose errors do not say why.
            with contextlib.closing(self._client.get_object(Bucket=self._bucket, Key=self._key(key))["Body"]):
                pass
            with path.open("wb") as file:
                self._client.download_fileobj(self._bucket, self._key(key), file, Config=MULTIPART)

        path.parent.mkdir(parents=True, exist_ok=True)
        self._patiently(fetch, key)
        return sha256_of(path)

    def upload(self, path: Path, key: str) -> FileEntry:
        """Write a file to an object, in parts where it is large; its size and sha256."""

        def send() -> None:
            with path.open("rb") as file:
                self._client.upload_fileobj(file, self._bucket, self._key(key), Config=MULTIPART)

        entry = FileEntry(path=key, size=path.stat().st_size, sha256=sha256_of(path))
        self._patiently(send, key, writing=True)
        return entry

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        for key in keys:

            def remove(key: str = key) -> None:
                self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

            self._patiently(remove, key, writing=True)

    def _patiently(self, action: Callable[[], T], key: str, *, writing: bool = False) -> T:
        uri = self.uri(key)
        return patiently(action, uri, self._patience, lambda error: verdict(error, uri, self._missing, writing=writing))

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self._prefix, key) if part)


class _Exists(Exception):
    """A conditional write met an object."""
