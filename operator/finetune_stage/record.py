"""The job's manifest: how it came to be and what came out; written last of all, read again by whoever comes later."""

import hashlib

from finetune_api.artifacts import MANIFEST, FileEntry, JobRecord, Manifest
from finetune_api.pods import Trained
from finetune_storage import Store, document


def published(store: Store) -> Trained | None:
    """The outcome of a job whose manifest is written."""
    if not store.exists(MANIFEST):
        return None
    job = Manifest.model_validate_json(store.get(MANIFEST)).job
    if job is None:
        raise ValueError(f"{store.uri(MANIFEST)} has no job record")
    return Trained(
        artifact=job.artifact,
        evaluation=job.evaluation,
        gate_passed=job.gate_passed,
        trained_tokens=job.trained_tokens,
        steps=job.steps,
        loss=job.loss,
        peak_memory=job.peak_memory,
        provider=job.provider,
    )


def write_manifest(store: Store, files: list[FileEntry], record: JobRecord) -> Trained:
    """Write the manifest unless another attempt was first; the outcome that counts."""
    root = Manifest(kind="Job", files=sorted(files, key=lambda entry: entry.path), job=record)
    store.put_new(MANIFEST, document(root))
    trained = published(store)
    assert trained is not None
    return trained


def entry(store: Store, key: str) -> FileEntry:
    """A file as the manifest lists it."""
    data = store.get(key)
    return FileEntry(path=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def folder_entries(store: Store, key: str) -> list[FileEntry]:
    """The files of a committed folder and its manifest, as seen from the job's folder."""
    manifest = Manifest.model_validate_json(store.get(f"{key}/{MANIFEST}"))
    inner = [each.model_copy(update={"path": f"{key}/{each.path}"}) for each in manifest.files]
    return [*inner, entry(store, f"{key}/{MANIFEST}")]
