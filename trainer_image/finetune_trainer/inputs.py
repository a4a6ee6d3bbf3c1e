"""What the train stage reads: resolved.json and the prepared data of the job's folder, verified; and nothing else."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from finetune_api.artifacts import DATA, RESOLVED, Resolved, job_folder
from finetune_api.model import Digest
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure, Reason
from finetune_storage import Store, fetch_folder
from finetune_trainer.outcome import Places


class Row(NamedTuple):
    """A prepared row."""

    id: str
    """Start of the sha256 of its line."""
    fields: dict[str, Any]
    """{"messages"}, {"prompt", "completion"} or {"text"}."""


@dataclass(frozen=True)
class Inputs:
    """Everything there is to know before the base model is loaded."""

    resolved: Resolved
    resolved_digest: Digest
    splits: dict[str, list[Row]]
    """train, and validation and test where there are any."""
    store: Store
    """The job's folder."""
    places: Places

    @property
    def work(self) -> Path:
        """Scratch space; data/ in it holds the prepared data."""
        return self.places.work_dir

    def held_out(self) -> tuple[str, list[Row]]:
        """Name and rows of the split the evaluation uses: test, else validation, else none."""
        name = next((name for name in ("test", "validation") if self.splits.get(name)), "none")
        return name, self.splits.get(name, [])


def open_output(config: JobConfig, places: Places) -> Store:
    """The job's folder in the output storage."""
    output = config.spec.output
    folder = job_folder(output.uri, config.namespace, config.name, config.uid)
    return places.store(folder, output.secret_ref, Reason.ARTIFACT_CORRUPT)


def read_inputs(store: Store, places: Places) -> Inputs:
    """Download and verify what the prepare stage wrote."""
    data = store.get(RESOLVED)
    try:
        resolved = Resolved.model_validate_json(data)
    except ValidationError as error:
        raise Failure(
            Reason.ARTIFACT_CORRUPT, f"{store.uri(RESOLVED)} is not a resolved configuration: {error}"
        ) from None
    work = places.work_dir
    fetch_folder(store, DATA, work / DATA, resolved.data_digest)
    splits: dict[str, list[Row]] = {
        split.statistics.name: _rows(store, work, split.file, split.sha256) for split in resolved.splits
    }
    if not splits.get("train"):
        raise Failure(Reason.DATA_INVALID, f"{store.uri(DATA)} has no training rows")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Inputs(resolved, digest, splits, store, places)


def _rows(store: Store, work: Path, file: str, sha256: str) -> list[Row]:
    path = work / file
    if not path.is_file() or not path.resolve().is_relative_to((work / DATA).resolve()):
        raise Failure(Reason.ARTIFACT_CORRUPT, f"{store.uri(RESOLVED)} names {file!r}, which is not a file of {DATA}/")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise Failure(Reason.ARTIFACT_CORRUPT, f"{store.uri(file)} has sha256 {found}, {RESOLVED} says {sha256}")
    return [Row(hashlib.sha256(line).hexdigest()[:16], json.loads(line)) for line in data.splitlines() if line]
