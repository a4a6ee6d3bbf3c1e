"""Checkpoints in object storage: committed by their manifest, the newest valid one found again, old ones removed."""

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.artifacts import CHECKPOINTS, MANIFEST, Manifest, checkpoint_folder
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import Checkpoint
from finetune_storage import Store, commit_folder, fetch_folder

KEPT = 2
STEP = re.compile(rf"^{CHECKPOINTS}/step-(\d+)/")


class Checkpoints:
    """The checkpoints of one job."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def commit(self, folder: Path, step: int) -> Checkpoint:
        """Upload a checkpoint, its manifest last; then remove all but the newest."""
        key = checkpoint_folder(step)
        commit_folder(self._store, folder, key, Manifest(kind="Checkpoint", files=[], step=step))
        for old in self._steps()[:-KEPT]:
            self._remove(old)
        return Checkpoint(step=step, uri=self._store.uri(key), created_at=now())

    def fetch_newest(self, dest: Path) -> int | None:
        """Download the newest valid checkpoint; its step, or None.

        One that is torn or corrupt is removed on the way: it must not count as newer than those to come.
        """
        for step in reversed(self._steps()):
            try:
                self._fetch(step, dest)
            except Failure as failure:
                if failure.reason is not Reason.ARTIFACT_CORRUPT:
                    raise
                print(f"checkpoint of step {step} skipped: {failure.message}", flush=True)
                self._remove(step)
            else:
                return step
        return None

    def _fetch(self, step: int, dest: Path) -> None:
        shutil.rmtree(dest, ignore_errors=True)
        manifest = fetch_folder(self._store, checkpoint_folder(step), dest, None)
        if manifest.kind != "Checkpoint" or manifest.step != step:
            what = f"the manifest is of a {manifest.kind}, step {manifest.step}"
            raise Failure(Reason.ARTIFACT_CORRUPT, f"{self._store.uri(checkpoint_folder(step))}: {what}")

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


def now() -> str:
    """RFC 3339 in UTC, seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
