"""What an S3 error means: it may pass, or the run ends with a reason. Used by :mod:`finetune_storage.store`."""

import ssl

from boto3.exceptions import RetriesExceededError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
)
from s3transfer.exceptions import RetriesExceededError as PartRetriesExceededError

from finetune_api.reasons import Failure, Reason

MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "404"})
FORBIDDEN = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem"})
"""The store knows who asks, and says no."""
STALE = frozenset({"ExpiredToken", "InvalidToken", "400"})
"""Status 400, but about the credentials; a HEAD request has no body that could say so."""
TRANSIENT = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
        "RequestTimeout",
        "InternalError",
        "ServiceUnavailable",
        "ConditionalRequestConflict",
        "NoSuchUpload",  # the answer to a completed upload was lost, and the completion was sent again
    }
)
"""Codes that may pass, beside every 5xx and 429."""
TRANSIENT_ERRORS = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
    RetriesExceededError,
    PartRetriesExceededError,
)


def verdict(error: Exception, uri: str, missing: Reason, *, writing: bool) -> Failure | None:
    """The end an error means; None for one that may pass. What is no storage error is raised again."""
    if isinstance(error, ClientError):
        passing = code_of(error) in TRANSIENT or status_of(error) >= 500 or status_of(error) == 429
        return None if passing else _refusal(error, uri, missing, writing=writing)
    if isinstance(error, SSLError) and _is_mistrust(error):
        return Failure(
            Reason.STORAGE_UNAVAILABLE,
            f"{uri}: the store's TLS certificate was not accepted; put the issuing CA into the Secret's key CA_BUNDLE",
        )
    if isinstance(error, TRANSIENT_ERRORS):
        return None
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return Failure(
            Reason.ACCESS_DENIED,
            f"{uri}: no credentials; name a Secret in secretRef, or run with a service account that has a workload identity",
        )
    if isinstance(error, BotoCoreError):
        return Failure(Reason.CONFIG_INVALID, f"{uri}: {error}")
    raise error


def _is_mistrust(error: BaseException | None) -> bool:
    """Whether it began with the store's certificate, or with a CA_BUNDLE that is none; other errors of TLS are a connection's."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        if isinstance(error, ssl.SSLError) and error.library == "X509":
            return True
        error = error.__cause__ or error.__context__
    return False


def code_of(error: ClientError) -> str:
    """The store's error code; for a HEAD request, which has no body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """HTTP status of the answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refusal(error: ClientError, uri: str, missing: Reason, *, writing: bool) -> Failure:
    code, status = code_of(error), status_of(error)
    if writing and code == "NoSuchBucket":
        return Failure(Reason.OUTPUT_NOT_WRITABLE, f"{uri}: the bucket does not exist; create it or correct the uri")
    if writing and code in FORBIDDEN:
        return Failure(Reason.OUTPUT_NOT_WRITABLE, f"{uri}: the credentials may not write here ({code})")
    if code == "NoSuchBucket":
        return Failure(missing, f"{uri}: the bucket does not exist")
    if code in MISSING:
        return Failure(missing, f"{uri} does not exist")
    if status in (401, 403) or code in STALE:
        return Failure(Reason.ACCESS_DENIED, f"{uri}: the store refused the credentials ({code})")
    return Failure(Reason.INTERNAL_ERROR, f"{uri}: the store answered {status} {code}")
