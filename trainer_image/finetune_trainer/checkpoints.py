"""Checkpoints in object storage: committed by their manifest, the newest valid one found again, old ones removed.

A checkpoint is uploaded in the background while training goes on, one at a time. The one before is awaited first, so that at
most two lie on the disk, and an upload that failed ends the training at the next checkpoint, or at its end.
"""

import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Protocol

from finetune_api.artifacts import CHECKPOINTS, MANIFEST, METRICS, Manifest, checkpoint_folder
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import Checkpoint
from finetune_storage import Store, commit_folder, fetch_folder

STEP = re.compile(rf"^{CHECKPOINTS}/step-(\d+)/")
OVERDUE_SECONDS = 60.0
"""An upload that takes longer is told: until it is done, an interruption costs the steps since the one before."""


class Witness(Protocol):
    """Who is told what becomes of the checkpoints, from the thread that uploads."""

    def committed(self, kept: list[Checkpoint]) -> None:
        """The newest is stored, and these are what this attempt has stored and kept."""

    def overdue(self, sentence: str) -> None:
        """The store has not taken a checkpoint for long."""


class Checkpoints:
    """The checkpoints of one job; a context manager, at whose end the upload under way is awaited."""

    def __init__(self, store: Store, kept: int, witness: Witness) -> None:
        self._store = store
        self._kept = kept
        self._witness = witness
        self._best: int | None = None
        self._uploader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._upload: Future[None] | None = None
        self._stored: dict[int, Checkpoint] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.settle()
        except Failure as failure:
            if error is None:
                raise
            print(f"a checkpoint was not stored: {failure.message}", flush=True)  # the first error is the one to tell
        finally:
            self._uploader.shutdown()

    def commit(self, folder: Path, step: int, metrics: bytes) -> None:
        """Upload a checkpoint in the background: ``metrics`` as metrics.jsonl, its files, its manifest last; then remove the
        folder, and in the store all but the newest and the best. Raises the Failure of the upload before.
        """
        self.settle()
        self._upload = self._uploader.submit(self._commit, folder, step, metrics)

    def settle(self) -> None:
        """Wait for the upload under way. Raises its Failure."""
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.result()

    def keep(self, step: int) -> None:
        """Keep this step's checkpoint however old it gets, instead of the one named before: it is the best so far."""
        self._best = step

    def fetch_newest(self, dest: Path) -> int | None:
        """Download the newest valid checkpoint; its step, or None.

        One that is torn or corrupt is removed on the way: it must not count as newer than those to come.
        """
        for step in reversed(self._steps()):
            try:
                self.fetch(step, dest)
            except Failure as failure:
                if failure.reason is not Reason.ARTIFACT_CORRUPT:
                    raise
                print(f"checkpoint of step {step} skipped: {failure.message}", flush=True)
                self._remove(step)
            else:
                return step
        return None

    def fetch(self, step: int, dest: Path, wanted: Callable[[str], bool] = lambda path: True) -> None:
        """Download the files ``wanted`` of a step's checkpoint, verified.

        Raises Failure(ARTIFACT_CORRUPT) where it is torn, changed or not there.
        """
        shutil.rmtree(dest, ignore_errors=True)
        manifest = fetch_folder(self._store, checkpoint_folder(step), dest, None, wanted)
        if manifest.kind != "Checkpoint" or manifest.step != step:
            what = f"the manifest is of a {manifest.kind}, step {manifest.step}"
            raise Failure(Reason.ARTIFACT_CORRUPT, f"{self._store.uri(checkpoint_folder(step))}: {what}")

    def _commit(self, folder: Path, step: int, metrics: bytes) -> None:
        key = checkpoint_folder(step)
        late = Timer(OVERDUE_SECONDS, self._witness.overdue, [self._overdue(step)])
        late.start()
        try:
            self._store.put(METRICS, metrics)
            commit_folder(self._store, folder, key, Manifest(kind="Checkpoint", files=[], step=step))
        finally:
            late.cancel()
        shutil.rmtree(folder)
        for old in self._steps()[: -self._kept]:
            if old != self._best:
                self._remove(old)
        self._stored[step] = Checkpoint(step=step, uri=self._store.uri(key), created_at=now())
        self._witness.committed(list(self._stored.values()))

    def _overdue(self, step: int) -> str:
        newest = max(self._stored, default=None)
        loses = f"the steps since {newest}" if newest is not None else "what this attempt has learned"
        return (
            f"The checkpoint of step {step} is being stored at {self._store.uri()} since {now()} and is not there yet. "
            f"Training goes on until the next one; an interruption now loses {loses}."
        )

    def _steps(self) -> list[int]:
        """Steps with anything stored, committed or not, oldest first."""
        found = (STEP.match(key) for key in self._store.list(f"{CHECKPOINTS}/"))
        return sorted({int(match[1]) for match in found if match})

    def _remove(self, step: int) -> None:
        """The manifest first, so that a half-removed checkpoint does not exist."""
        key = checkpoint_folder(step)
        manifest = f"{key}/{MANIFEST}"
        self._store.delete([manifest])
        self._store.delete([each for each in self._store.list(f"{key}/") if each != manifest])
        self._stored.pop(step, None)


def now() -> str:
    """RFC 3339 in UTC, seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
