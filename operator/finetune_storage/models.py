"""Base models: from S3, with or without a manifest, or from a Hugging Face hub (HF_ENDPOINT is honoured).

Only data is fetched (safetensors, JSON, tokenizer files): no pickles and no code, whatever the folder holds.
"""

import json
from collections.abc import Callable
from pathlib import Path

from finetune_api.artifacts import MANIFEST
from finetune_api.model import Digest
from finetune_api.pods import SECRET_WAIT_SECONDS
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import ModelRef
from finetune_storage.folders import digest_of, fetch_folder, parse_manifest
from finetune_storage.hub import HUB, Hub, Repository, hub_token
from finetune_storage.store import PATIENCE_SECONDS, Store, open_store

Model = ResolvedBaseModel | ModelRef

SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja")
"""Files of a model that are data: weights, configuration, tokenizer."""
WEIGHTS = ".safetensors"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""All weights, or the names of the files that hold them."""

Fetch = Callable[[Callable[[str], bool]], object]
"""Downloads the files of a model whose names are wanted."""


def is_model_file(path: str) -> bool:
    """Whether a file of a model's folder is fetched."""
    return path.endswith(SUFFIXES) and "/" not in path


def pin_model(
    ref: Model, secrets: Path | None, *, patience: float = PATIENCE_SECONDS, secret_wait: float = SECRET_WAIT_SECONDS
) -> tuple[Model, list[str]]:
    """The model with what can be pinned (hub: the commit; S3: the manifest's digest), and the names of its files."""
    uri = _uri(ref)
    if uri.startswith(HUB):
        hub = _hub(ref, secrets, patience, secret_wait)
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
    """Download a model's ``wanted`` files, verified where there is a manifest; ``dest``. Of the weights only those that are read:
    some folders hold them twice, in another layout beside."""
    fetch = _fetch(ref, dest, secrets, patience, secret_wait)
    fetch(lambda name: wanted(name) and not name.endswith(WEIGHTS))
    read = _files_of_weights(dest, _uri(ref))
    fetch(lambda name: wanted(name) and name in read)
    return dest


def _fetch(ref: Model, dest: Path, secrets: Path | None, patience: float, secret_wait: float) -> Fetch:
    uri = _uri(ref)
    if uri.startswith(HUB):
        hub = _hub(ref, secrets, patience, secret_wait)
        commit, files = hub.look()
        return _one_by_one(files, lambda name: hub.download(name, commit, dest))
    store = open_store(uri, secrets, missing=Reason.MODEL_NOT_FOUND, patience=patience, secret_wait=secret_wait)
    if ref.digest is not None or store.exists(MANIFEST):
        return lambda wanted: fetch_folder(store, "", dest, ref.digest, wanted)
    return _one_by_one(_listed(store), lambda name: store.download(name, dest / name))


def _one_by_one(names: list[str], download: Callable[[str], object]) -> Fetch:
    def fetch(wanted: Callable[[str], bool]) -> None:
        for name in filter(wanted, names):
            download(name)

    return fetch


def _files_of_weights(folder: Path, uri: str) -> set[str]:
    """By the index, where there is one."""
    index = folder / INDEX
    if not index.exists():
        return {WHOLE}
    try:
        return {WHOLE, *json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError) as error:
        raise Failure(Reason.MODEL_NOT_FOUND, f"{uri}: {INDEX} does not say which files hold the weights") from error


def _hub(ref: Model, secrets: Path | None, patience: float, secret_wait: float) -> Hub:
    uri = _uri(ref)
    repository = Repository("model", uri.removeprefix(HUB).strip("/"), ref.revision)
    return Hub(repository, uri, hub_token(secrets, secret_wait), patience)


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
