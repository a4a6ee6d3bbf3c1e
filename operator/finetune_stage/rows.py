"""The rows the prepare stage wrote, verified; and the job's folder."""

import hashlib
import json
from typing import Any, NamedTuple

from finetune_api.artifacts import DATA, RESOLVED, PreparedSplit, job_folder
from finetune_api.model import Digest
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure, Reason
from finetune_stage.outcome import Places
from finetune_storage import Store, fetch_folder


class Row(NamedTuple):
    """A prepared row."""

    id: str
    """Start of the sha256 of its line."""
    fields: dict[str, Any]
    """As the prepared format has them, for example {"messages"} or {"prompt", "completion"}."""


Splits = dict[str, list[Row]]
"""train, and validation and test where there are any."""


def open_output(config: JobConfig, places: Places) -> Store:
    """The job's folder in the output storage."""
    output = config.spec.output
    folder = job_folder(output.uri, config.namespace, config.name, config.uid)
    return places.store(folder, output.secret_ref, Reason.ARTIFACT_CORRUPT)


def fetch_rows(store: Store, places: Places, splits: list[PreparedSplit], data_digest: Digest) -> Splits:
    """Download and verify the prepared data; there are training rows."""
    fetch_folder(store, DATA, places.work_dir / DATA, data_digest)
    rows: Splits = {split.statistics.name: _rows(store, places, split) for split in splits}
    if not rows.get("train"):
        raise Failure(Reason.DATA_INVALID, f"{store.uri(DATA)} has no training rows")
    return rows


def held_out(splits: Splits) -> tuple[str, list[Row]]:
    """Name and rows of the split the evaluation uses: test, else validation, else none."""
    name = next((name for name in ("test", "validation") if splits.get(name)), "none")
    return name, splits.get(name, [])


def _rows(store: Store, places: Places, split: PreparedSplit) -> list[Row]:
    return read_file(store, places, split.file, split.sha256)


def read_file(store: Store, places: Places, file: str, sha256: str) -> list[Row]:
    """The rows of a fetched file, verified."""
    path = places.work_dir / file
    if not path.is_file() or not path.resolve().is_relative_to((places.work_dir / DATA).resolve()):
        raise Failure(Reason.ARTIFACT_CORRUPT, f"{store.uri(RESOLVED)} names {file!r}, which is not a file of {DATA}/")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise Failure(Reason.ARTIFACT_CORRUPT, f"{store.uri(file)} has sha256 {found}, {RESOLVED} says {sha256}")
    return [Row(hashlib.sha256(line).hexdigest()[:16], json.loads(line)) for line in data.splitlines() if line]
