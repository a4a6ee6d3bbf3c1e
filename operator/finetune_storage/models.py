"""Base models: from S3, with or without a manifest, or from a Hugging Face hub (HF_ENDPOINT is honoured).

Only data is fetched (safetensors, JSON, tokenizer files): no pickles and no code, whatever the folder holds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from finetune_api.artifacts import MANIFEST
from finetune_api.model import Digest
from finetune_api.pods import SECRET_WAIT_SECONDS
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import ResolvedBaseModel
from finetune_api.v1alpha1.references import ModelRef
from finetune_storage.credentials import HUB_KEYS, read_secret
from finetune_storage.folders import digest_of, fetch_folder, parse_manifest
from finetune_storage.patience import patiently
from finetune_storage.store import PATIENCE_SECONDS, Store, open_store

T = TypeVar("T")
Model = ResolvedBaseModel | ModelRef

SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja")
"""Files of a model that are data: weights, configuration, tokenizer."""
HUB = "hf://"


def is_model_file(path: str) -> bool:
    """Whether a file of a model's folder is fetched."""
    return path.endswith(SUFFIXES) and "/" not in path


def pin_model(
    ref: Model, secrets: Path | None, *, patience: float = PATIENCE_SECONDS, secret_wait: float = SECRET_WAIT_SECONDS
) -> tuple[Model, list[str]]:
    """The model with what can be pinned (hub: the commit; S3: the manifest's digest), and the names of its files."""
    uri = _uri(ref)
    if uri.startswith(HUB):
        hub = _Hub(ref, secrets, patience, secret_wait)
        commit, files = hub.look()
        return ref.model_copy(update={"revision": commit}), files
    store = open_store(uri, secrets, missing=Reason.MODEL_NOT_FOUND, patience=patience, secret_wait=secret_wait)
    if store.exists(MANIFEST):
        data = store.get(MANIFEST)
        return ref.model_copy(update={"digest": ref.digest or digest_of(data)}), _named(data, ref.digest, store)
    if ref.digest is not None:
        raise Failure(
            Reason.MODEL_NOT_FOUND,
            f"{uri} has no {MANIFEST}, so it cannot be checked against digest {ref.digest}; leave the digest out",
        )
    return ref, _listed(store)


def fetch_model(
    ref: Model,
    dest: Path,
    secrets: Path | None,
    *,
    wanted: Callable[[str], bool] = is_model_file,
    patience: float = PATIENCE_SECONDS,
    secret_wait: float = SECRET_WAIT_SECONDS,
) -> Path:
    """Download a model's ``wanted`` files, verified where there is a manifest; ``dest``."""
    uri = _uri(ref)
    if uri.startswith(HUB):
        hub = _Hub(ref, secrets, patience, secret_wait)
        commit, files = hub.look()
        for name in filter(wanted, files):
            hub.download(name, commit, dest)
        return dest
    store = open_store(uri, secrets, missing=Reason.MODEL_NOT_FOUND, patience=patience, secret_wait=secret_wait)
    if ref.digest is not None or store.exists(MANIFEST):
        fetch_folder(store, "", dest, ref.digest, wanted)
        return dest
    for name in filter(wanted, _listed(store)):
        store.download(name, dest / name)
    return dest


def _uri(ref: Model) -> str:
    if ref.uri is None:
        raise ValueError("a model without an address (fromConfig) cannot be fetched")
    return ref.uri


def _named(data: bytes, digest: Digest | None, store: Store) -> list[str]:
    """The files of a manifest, which must be the expected one."""
    if digest is not None and digest_of(data) != digest:
        raise Failure(Reason.ARTIFACT_CORRUPT, f"{store.uri(MANIFEST)} has digest {digest_of(data)}, expected {digest}")
    return [entry.path for entry in parse_manifest(data, store.uri(MANIFEST)).files]


def _listed(store: Store) -> list[str]:
    files = store.list()
    if not files:
        raise Failure(Reason.MODEL_NOT_FOUND, f"{store.uri()} does not exist, or holds no files")
    return files


class _Hub:
    """One model on a Hugging Face hub."""

    def __init__(self, ref: Model, secrets: Path | None, patience: float, secret_wait: float) -> None:
        self._uri = _uri(ref)
        self._repo = self._uri.removeprefix(HUB).strip("/")
        self._revision = ref.revision
        self._token = read_secret(secrets, HUB_KEYS, secret_wait)["HF_TOKEN"] if secrets else None
        self._patience = patience

    def look(self) -> tuple[str, list[str]]:
        """The commit behind the revision, and its files."""
        from huggingface_hub import HfApi

        info = self._ask(lambda: HfApi(token=self._token).model_info(self._repo, revision=self._revision, timeout=30))
        return str(info.sha), sorted(item.rfilename for item in info.siblings or [])

    def download(self, name: str, commit: str, dest: Path) -> None:
        """Write one file below ``dest``."""
        from huggingface_hub import hf_hub_download

        self._ask(
            lambda: hf_hub_download(
                self._repo, name, revision=commit, local_dir=dest, token=self._token, etag_timeout=30
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
            return Failure(Reason.CONFIG_INVALID, f"{self._uri}: expected hf://owner/name")
        if isinstance(error, errors.GatedRepoError):
            return Failure(
                Reason.ACCESS_DENIED,
                f"{self._uri} is gated: accept its terms on the hub, and give a token of that account as HF_TOKEN in baseModel.secretRef",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return Failure(Reason.MODEL_NOT_FOUND, f"{self._uri} has no revision {self._revision}")
        if isinstance(error, errors.RepositoryNotFoundError):
            return Failure(
                Reason.MODEL_NOT_FOUND,
                f"{self._uri} does not exist, or is private (give a token as HF_TOKEN in baseModel.secretRef)",
            )
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            if status >= 500 or status == 429:
                return None
            reason = Reason.ACCESS_DENIED if status in (401, 403) else Reason.MODEL_NOT_FOUND
            return Failure(reason, f"{self._uri}: the hub answered {status}")
        raise error
