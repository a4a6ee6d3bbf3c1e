"""The job's manifest: how it came to be and what came out; written last of all, read again by whoever comes later."""

import contextlib
import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from finetune_api.artifacts import MANIFEST, FileEntry, JobRecord, Manifest, Resolved, ResolvedDelegation
from finetune_api.model import Digest
from finetune_api.pods import Trained
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, Choice, MemoryMeasured, ValidationStatus
from finetune_api.v1alpha1.provider import ProviderStatus
from finetune_stage.scores import EvaluationFile
from finetune_storage import Store, document


class Course(NamedTuple):
    """What the training came to."""

    tokens: int
    steps: int
    loss: float | None
    peak_memory: MemoryMeasured | None = None
    """Where it ran on a GPU of this cluster."""
    provider: ProviderStatus | None = None
    """Where a provider trained."""
    validation: ValidationStatus | None = None
    """Where its loss was measured while training."""
    skipped_batch: str | None = None
    """Where one was left out."""
    tracking_error: str | None = None
    """Which tracker failed, and why."""
    learning_rate: Choice | None = None
    """Where one was searched for."""


@dataclass(frozen=True)
class Made:
    """What a job made, and by what."""

    artifact: ArtifactStatus
    evaluation: EvaluationFile | None
    course: Course
    image: str
    versions: dict[str, str]


def record_of(resolved: Resolved | ResolvedDelegation, resolved_digest: Digest, made: Made) -> JobRecord:
    """The job's record in its manifest."""
    evaluation, course = made.evaluation, made.course
    return JobRecord(
        namespace=resolved.namespace,
        name=resolved.name,
        uid=resolved.uid,
        image=made.image,
        versions=made.versions,
        resolved_digest=resolved_digest,
        data_digest=resolved.data_digest,
        artifact=made.artifact,
        evaluation=evaluation.summary if evaluation else None,
        gate_passed=evaluation is None or evaluation.gate_passed,
        trained_tokens=course.tokens,
        steps=course.steps,
        loss=course.loss,
        peak_memory=course.peak_memory,
        validation=course.validation,
        skipped_batch=course.skipped_batch,
        tracking_error=course.tracking_error,
        learning_rate=course.learning_rate,
        provider=course.provider,
    )


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """Of everything that shapes the numbers; a library that is not installed (a checkout, another platform) is left out."""
    found = {"python": platform.python_version()}
    for name in libraries:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


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
        validation=job.validation,
        skipped_batch=job.skipped_batch,
        tracking_error=job.tracking_error,
        learning_rate=job.learning_rate,
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
