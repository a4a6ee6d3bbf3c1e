"""Files of rows: one address may stand for many objects (a pattern, or a folder), in S3, in gs:// or in a dataset of a hub."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune_api.pods import SECRET_WAIT_SECONDS
from finetune_api.reasons import Failure, Reason
from finetune_storage.folders import is_below
from finetune_storage.hub import HUB, Hub, Repository, hub_token
from finetune_storage.store import PATIENCE_SECONDS, open_store

if TYPE_CHECKING:
    from finetune_storage.google_cloud import Bucket

GS = "gs://"
HUB_DATASETS = f"{HUB}datasets/"
MOST_FILES = 10_000
PLACEHOLDERS = re.compile(r"[*?]")


class FetchedFile(NamedTuple):
    """A file of rows on this machine."""

    name: str
    """Its address."""
    path: Path
    generation: int | None = None
    """Of an object in gs://: the version that was read."""


def is_pattern(address: str) -> bool:
    """Whether an address stands for several files: with a placeholder, or a folder, which ends with a slash."""
    return address.endswith("/") or PLACEHOLDERS.search(address) is not None


def matching(names: list[str], pattern: str) -> list[str]:
    """The names a pattern stands for: ``*`` and ``?`` within a folder, ``**`` across folders, a folder for all below it."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", f"{pattern}**" if pattern.endswith("/") or not pattern else pattern)
    meaning = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regular = re.compile("".join(meaning.get(piece, re.escape(piece)) for piece in pieces))
    return [name for name in names if regular.fullmatch(name) and not Path(name).name.startswith((".", "_"))]


def fetch_rows(
    uri: str,
    folder: Path,
    secrets: Path | None,
    *,
    patience: float = PATIENCE_SECONDS,
    secret_wait: float = SECRET_WAIT_SECONDS,
    gs_url: str | None = None,
) -> list[FetchedFile]:
    """Download every file an address stands for into ``folder``, in the order of their names. ``gs_url`` is another address of
    the Cloud Storage API than the usual one."""
    if uri.startswith(HUB):
        return _from_hub(uri, folder, hub_token(secrets, secret_wait), patience)
    if uri.startswith(GS):
        from finetune_storage.google_cloud import Bucket  # only here: the client takes a while to import

        name = uri.removeprefix(GS).partition("/")[0]
        return _from_bucket(uri, folder, Bucket(name, secrets, patience=patience, secret_wait=secret_wait, url=gs_url))
    if not is_pattern(uri):
        store = open_store(uri, secrets, missing=Reason.DATASET_NOT_FOUND, patience=patience, secret_wait=secret_wait)
        (name,) = _fit([uri.rsplit("/", 1)[-1]], uri)
        path = folder / name
        store.download("", path)
        return [FetchedFile(uri, path)]
    bucket, _, pattern = uri.removeprefix("s3://").partition("/")
    store = open_store(
        f"s3://{bucket}", secrets, missing=Reason.DATASET_NOT_FOUND, patience=patience, secret_wait=secret_wait
    )
    listed = store.list(PLACEHOLDERS.split(pattern, maxsplit=1)[0])
    keys = _fit([key for key in matching(listed, pattern) if not key.endswith("/")], uri)
    for key in keys:
        store.download(key, folder / key)
    return [FetchedFile(store.uri(key), folder / key) for key in keys]


def _from_bucket(uri: str, folder: Path, bucket: "Bucket") -> list[FetchedFile]:
    pattern = uri.removeprefix(GS).partition("/")[2]
    keys = [pattern]
    if is_pattern(uri):
        listed = bucket.list(PLACEHOLDERS.split(pattern, maxsplit=1)[0])
        keys = [key for key in matching(listed, pattern) if not key.endswith("/")]
    found = [bucket.download(key, folder / key) for key in _fit(keys, uri)]
    return [FetchedFile(each.uri, each.path, each.generation) for each in found]


def _from_hub(uri: str, folder: Path, token: str | None, patience: float) -> list[FetchedFile]:
    parsed = re.fullmatch(rf"{HUB_DATASETS}([^/@]+/[^/@]+)(?:@([^/]+))?/(.*)", uri)
    if parsed is None:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{uri}: expected {HUB_DATASETS}owner/name/file, or {HUB_DATASETS}owner/name@revision/file",
        )
    name, revision, pattern = parsed.groups()
    hub = Hub(Repository("dataset", name, revision), uri, token, patience)
    commit, listed = hub.look()
    found = _fit(matching(listed, pattern), uri)
    for file in found:
        hub.download(file, commit, folder)
    return [FetchedFile(f"{HUB_DATASETS}{name}@{commit[:12]}/{file}", folder / file) for file in found]


def _fit(names: list[str], uri: str) -> list[str]:
    """The names, where there are some, not too many, and each can be a file's below a folder: whoever stores objects names them."""
    if not names:
        what = "no file there matches" if is_pattern(uri) else "there is no such file"
        raise Failure(Reason.DATASET_NOT_FOUND, f"{uri}: {what}")
    if len(names) > MOST_FILES:
        raise Failure(Reason.CONFIG_INVALID, f"{uri} stands for {len(names)} files; at most {MOST_FILES} are read")
    foreign = next((name for name in names if not is_below(name)), None)
    if foreign is not None:
        raise Failure(Reason.CONFIG_INVALID, f"{uri}: {foreign!r} cannot be a file below a folder; rename the object")
    return names
