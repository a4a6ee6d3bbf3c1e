"""Folders that exist once their manifest does: files first, manifest last; read back verified."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from finetune_api.artifacts import MANIFEST, FileEntry, Manifest
from finetune_api.model import ApiModel, Digest, first_fault
from finetune_api.reasons import Failure, Reason
from finetune_storage.store import Store, sha256_of


def document(value: ApiModel) -> bytes:
    """The one way a model is written to a file, so that equal values have equal digests."""
    return (json.dumps(value.wire(), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def digest_of(data: bytes) -> Digest:
    """sha256:… of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def commit_folder(store: Store, folder: Path, key: str, manifest: Manifest) -> Digest:
    """Upload a folder and, last, its manifest (``manifest`` with the files filled in); the manifest's digest.

    Safe to repeat. Over an earlier commit with other content, the old manifest goes first: no reader ever finds a manifest
    beside files it does not describe.
    """
    entries = [
        FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    ]
    data = document(manifest.model_copy(update={"files": sorted(entries, key=lambda entry: entry.path)}))
    there = f"{key}/{MANIFEST}"
    if store.exists(there):
        if store.get(there) == data:
            return digest_of(data)
        store.delete([there])
    for entry in entries:
        sent = store.upload(folder / entry.path, f"{key}/{entry.path}")
        if sent.sha256 != entry.sha256:
            raise Failure(Reason.INTERNAL_ERROR, f"{folder / entry.path} changed while it was uploaded")
    store.put(there, data)
    return digest_of(data)


def fetch_folder(
    store: Store, key: str, dest: Path, digest: Digest | None, wanted: Callable[[str], bool] = lambda path: True
) -> Manifest:
    """Download the files of a committed folder that are ``wanted``, each verified against the manifest, and it against ``digest``."""
    prefix = f"{key}/" if key else ""
    data = store.get(prefix + MANIFEST)
    if digest is not None and digest_of(data) != digest:
        raise Failure(
            Reason.ARTIFACT_CORRUPT,
            f"{store.uri(prefix + MANIFEST)} has digest {digest_of(data)}, expected {digest}: not the artifact that was asked for",
        )
    manifest = parse_manifest(data, store.uri(prefix + MANIFEST))
    for entry in manifest.files:
        if wanted(entry.path):
            found = store.download(prefix + entry.path, dest / entry.path)
            if found != entry.sha256:
                raise Failure(
                    Reason.ARTIFACT_CORRUPT,
                    f"{store.uri(prefix + entry.path)} has sha256 {found}, its manifest says {entry.sha256}",
                )
    return manifest


def is_below(path: str) -> bool:
    """Whether a stored name, taken as a path, stays below the folder it is put into, and is the only one for its file."""
    parsed = PurePosixPath(path)
    return not (parsed.is_absolute() or ".." in parsed.parts or "\\" in path or parsed.as_posix() != path)


def parse_manifest(data: bytes, uri: str) -> Manifest:
    """A manifest whose paths all stay below its folder."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise Failure(Reason.ARTIFACT_CORRUPT, f"{uri} is not a manifest: {first_fault(error)}") from None
    for entry in manifest.files:
        if not is_below(entry.path):
            raise Failure(Reason.ARTIFACT_CORRUPT, f"{uri} names a file outside its folder: {entry.path!r}")
    return manifest
