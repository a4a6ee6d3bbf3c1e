"""Objects in gs://; the only user of google-cloud-storage. Its own retries are off: a wait must be told to the user."""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import requests
from google.api_core import exceptions
from google.auth import exceptions as auth_errors
from google.cloud import storage

from finetune_api.pods import SECRET_WAIT_SECONDS
from finetune_api.reasons import Failure, Reason
from finetune_storage.datasets import GS
from finetune_storage.google_identity import google_identity
from finetune_storage.patience import patiently

T = TypeVar("T")

URL = "https://storage.googleapis.com"
TIMEOUT_SECONDS = 60.0
PASSING = (requests.RequestException, auth_errors.TransportError, exceptions.RetryError, ConnectionError)


class Object(NamedTuple):
    """A version of an object on this machine."""

    uri: str
    path: Path
    generation: int


def cloud_client(identity: Any, project: str | None, url: str | None) -> storage.Client:
    """A client of Cloud Storage at its usual address, or another."""
    return storage.Client(project=project, credentials=identity, client_options={"api_endpoint": url or URL})


class Bucket:
    """A bucket, read with the key of a Secret or with the pod's own identity."""

    def __init__(
        self,
        name: str,
        secrets: Path | None,
        *,
        patience: float,
        secret_wait: float = SECRET_WAIT_SECONDS,
        url: str | None = None,
    ) -> None:
        identity = google_identity(secrets, "secretRef", secret_wait)
        self._bucket = cloud_client(identity, None, url).bucket(name)
        self._patience = patience

    def list(self, prefix: str) -> list[str]:
        """Names that begin with ``prefix``, sorted."""

        def pages() -> list[str]:
            return sorted(
                blob.name for blob in self._bucket.list_blobs(prefix=prefix, timeout=TIMEOUT_SECONDS, retry=None)
            )

        return self._patiently(pages, prefix)

    def download(self, key: str, path: Path) -> Object:
        """Write an object to a file: the version it has now."""

        def fetch() -> Object:
            blob = self._bucket.blob(key)
            blob.reload(timeout=TIMEOUT_SECONDS, retry=None)
            generation = int(blob.generation)
            blob.download_to_filename(str(path), if_generation_match=generation, timeout=TIMEOUT_SECONDS, retry=None)
            return Object(self._uri(key), path, generation)

        path.parent.mkdir(parents=True, exist_ok=True)
        return self._patiently(fetch, key)

    def _patiently(self, action: Callable[[], T], key: str) -> T:
        uri = self._uri(key)
        return patiently(action, uri, self._patience, lambda error: verdict(error, uri))

    def _uri(self, key: str) -> str:
        return f"{GS}{self._bucket.name}/{key}"


def verdict(error: Exception, uri: str) -> Failure | None:
    """The end an error means; None for one that may pass. What is no storage error is raised again."""
    if isinstance(error, PASSING):
        return None
    if isinstance(error, auth_errors.GoogleAuthError):
        return Failure(Reason.ACCESS_DENIED, f"{uri}: Google refused the credentials: {str(error)[:400]}")
    if not isinstance(error, exceptions.GoogleAPICallError):
        raise error
    status = int(error.code or 0)
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
        return None
    if status == HTTPStatus.NOT_FOUND:
        return Failure(Reason.DATASET_NOT_FOUND, f"{uri}: there is no such object or bucket")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Failure(Reason.ACCESS_DENIED, f"{uri}: {str(error.message)[:400]}")
    return Failure(Reason.INTERNAL_ERROR, f"{uri}: the store answered {status} {str(error.message)[:400]}")
