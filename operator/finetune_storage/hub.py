"""A Hugging Face hub (HF_ENDPOINT is honoured): the commit behind a revision, its files, and what a refusal means.

The only user of huggingface_hub beside the server; used by :mod:`finetune_storage.models` and :mod:`finetune_storage.datasets`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from finetune_api.reasons import Failure, Reason
from finetune_storage.credentials import HUB_KEYS, read_secret
from finetune_storage.patience import patiently

T = TypeVar("T")

HUB = "hf://"
EXPECTED = {"model": "hf://owner/name", "dataset": "hf://datasets/owner/name/file"}
USED_BY = {"model": "baseModel", "dataset": "dataset"}


class Repository(NamedTuple):
    """What is asked for."""

    kind: Literal["model", "dataset"]
    name: str
    """owner/name."""
    revision: str | None

    @property
    def missing(self) -> Reason:
        """The reason that its absence stands for."""
        return Reason.MODEL_NOT_FOUND if self.kind == "model" else Reason.DATASET_NOT_FOUND


def hub_token(secrets: Path | None, secret_wait: float) -> str | None:
    """The token of a mounted Secret."""
    return read_secret(secrets, HUB_KEYS, secret_wait)["HF_TOKEN"] if secrets else None


class Hub:
    """One repository on a hub; ``uri`` is what the user calls it."""

    def __init__(self, repository: Repository, uri: str, token: str | None, patience: float) -> None:
        self._repository = repository
        self._uri = uri
        self._token = token
        self._patience = patience

    def look(self) -> tuple[str, list[str]]:
        """The commit behind the revision, and its files."""
        from huggingface_hub import HfApi

        kind, name, revision = self._repository
        api = HfApi(token=self._token)
        ask = api.model_info if kind == "model" else api.dataset_info
        info = self._ask(lambda: ask(name, revision=revision, timeout=30))
        return str(info.sha), sorted(item.rfilename for item in info.siblings or [])

    def download(self, name: str, commit: str, dest: Path) -> None:
        """Write one file below ``dest``."""
        from huggingface_hub import hf_hub_download

        kind, repository, _ = self._repository
        self._ask(
            lambda: hf_hub_download(
                repository,
                name,
                repo_type=kind,
                revision=commit,
                local_dir=dest,
                token=self._token,
                etag_timeout=30,
            )
        )

    def _ask(self, action: Callable[[], T]) -> T:
        return patiently(action, self._uri, self._patience, self._verdict)

    def _verdict(self, error: Exception) -> Failure | None:
        """The end an error means; None for one that may pass."""
        from huggingface_hub import errors

        # The base error of the hub library's HTTP client (httpx, later httpx2): what is not an answer is a lost connection.
        connection = errors.HfHubHTTPError.__mro__[1]
        answered = isinstance(error, errors.HfHubHTTPError)
        if isinstance(error, errors.LocalEntryNotFoundError) or (isinstance(error, connection) and not answered):
            return None
        if isinstance(error, errors.HFValidationError):
            return Failure(Reason.CONFIG_INVALID, f"{self._uri}: expected {EXPECTED[self._repository.kind]}")
        if isinstance(error, errors.GatedRepoError):
            return Failure(
                Reason.ACCESS_DENIED,
                f"{self._uri} is gated: accept its terms on the hub, and give a token of that account as HF_TOKEN in {USED_BY[self._repository.kind]}.secretRef",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return Failure(self._repository.missing, f"{self._uri} has no revision {self._repository.revision}")
        if isinstance(error, errors.RepositoryNotFoundError):
            return Failure(
                self._repository.missing,
                f"{self._uri} does not exist, or is private (give a token as HF_TOKEN in {USED_BY[self._repository.kind]}.secretRef)",
            )
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            if status >= 500 or status == 429:
                return None
            reason = Reason.ACCESS_DENIED if status in (401, 403) else self._repository.missing
            return Failure(reason, f"{self._uri}: the hub answered {status}")
        raise error
