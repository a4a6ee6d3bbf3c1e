"""Checkpoints in a real store: uploaded behind the training's back, a manifest makes one, the newest valid one is found."""

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from finetune_api.artifacts import Manifest
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob_status import Checkpoint
from finetune_storage import Store, commit_folder, open_store
from finetune_trainer import checkpoints as module
from finetune_trainer.checkpoints import Checkpoints
from s3_server import serve


class Told:
    """What the checkpoints say."""

    def __init__(self) -> None:
        self.kept: list[Checkpoint] = []
        self.sentence = ""
        self.late = threading.Event()

    def committed(self, kept: list[Checkpoint]) -> None:
        self.kept, self.sentence = kept, ""

    def overdue(self, sentence: str) -> None:
        self.sentence = sentence
        self.late.set()


@pytest.fixture
def store(bucket: str, secret: Path) -> Store:
    return open_store(f"{bucket}/job", secret)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint as the trainer writes it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights").write_text("weights")
    (folder / "optimizer").write_text("moments")
    return folder


def begin(checkpoints: Checkpoints, folder: Path, step: int) -> Path:
    """Hand a copy of the folder over; the copy."""
    copy = folder.with_name(f"checkpoint-{step}")
    shutil.copytree(folder, copy)
    checkpoints.commit(copy, step, b"metrics until step %d" % step)
    return copy


def store_all(checkpoints: Checkpoints, folder: Path, *steps: int) -> None:
    """Hand copies of the folder over, and wait for each."""
    for step in steps:
        begin(checkpoints, folder, step)
        checkpoints.settle()


def committed(store: Store) -> list[str]:
    """Folders with a manifest."""
    return [key.split("/")[1] for key in store.list("checkpoints/") if key.endswith("/manifest.json")]


def test_the_newest_two_are_kept(store: Store, folder: Path, tmp_path: Path) -> None:
    told = Told()
    checkpoints = Checkpoints(store, 2, told)
    assert checkpoints.fetch_newest(tmp_path / "none") is None
    store_all(checkpoints, folder, 2, 4, 10)
    assert [(each.step, each.uri) for each in told.kept] == [
        (4, store.uri("checkpoints/step-000004")),
        (10, store.uri("checkpoints/step-000010")),
    ]
    assert committed(store) == ["step-000004", "step-000010"]
    assert not store.list("checkpoints/step-000002")
    assert store.get("metrics.jsonl") == b"metrics until step 10"
    assert checkpoints.fetch_newest(tmp_path / "found") == 10
    assert (tmp_path / "found" / "weights").read_text() == "weights"


def test_the_best_is_kept_beside_the_newest(store: Store, folder: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(store, 1, Told())
    store_all(checkpoints, folder, 1)
    checkpoints.keep(1)
    store_all(checkpoints, folder, 2, 3)
    assert committed(store) == ["step-000001", "step-000003"]
    checkpoints.keep(3)
    store_all(checkpoints, folder, 4)
    assert committed(store) == ["step-000003", "step-000004"]
    checkpoints.fetch(3, tmp_path / "best")
    with pytest.raises(Failure) as caught:
        checkpoints.fetch(1, tmp_path / "gone")
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT


@pytest.mark.parametrize("damage", ["changed", "lost", "torn", "another step's"])
def test_a_damaged_one_is_removed_for_the_one_before(store: Store, folder: Path, tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(store, 2, Told())
    store_all(checkpoints, folder, 2, 4)
    if damage == "changed":
        store.put("checkpoints/step-000004/weights", b"other weights")
    elif damage == "lost":
        store.delete(["checkpoints/step-000004/weights"])
    elif damage == "torn":
        store.delete(["checkpoints/step-000004/manifest.json"])
    else:
        commit_folder(store, folder, "checkpoints/step-000004", Manifest(kind="Checkpoint", files=[], step=3))
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "leftover").write_text("of an earlier try")
    assert checkpoints.fetch_newest(tmp_path / "found") == 2
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["optimizer", "weights"]
    assert not store.list("checkpoints/step-000004"), "it would count as newer than those to come"
    store_all(checkpoints, folder, 3)
    assert committed(store) == ["step-000002", "step-000003"]


def test_a_removal_cut_short_leaves_no_half_checkpoint(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(store, 2, Told())
    store_all(checkpoints, folder, 2, 4)
    delete = store.delete

    def one_and_no_more(keys: Iterable[str]) -> None:
        delete(list(keys)[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "delete", one_and_no_more)
    with pytest.raises(KeyboardInterrupt):
        store_all(checkpoints, folder, 6)
    assert committed(store) == ["step-000004", "step-000006"]


def test_training_goes_on_while_the_store_is_away_and_says_so(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    with serve(tmp_path / "server") as server:
        store = open_store(f"{server.bucket('models')}/job", server.secret(tmp_path / "secrets"), patience=60)
        with Checkpoints(store, 2, told) as checkpoints:
            store_all(checkpoints, folder, 2)
            monkeypatch.setattr(module, "OVERDUE_SECONDS", 0.2)
            server.stop()
            copy = begin(checkpoints, folder, 4)  # comes back at once
            assert told.late.wait(20)
            assert "The checkpoint of step 4 is being stored at s3://models/job since" in told.sentence
            assert "loses the steps since 2" in told.sentence
            assert copy.exists(), "its only copy"
            server.start()
            begin(checkpoints, folder, 6)  # waits for step 4's
            assert not copy.exists()
        assert committed(store) == ["step-000004", "step-000006"]
        assert told.sentence == ""


def test_an_upload_that_failed_ends_the_training_at_the_next_checkpoint(
    bucket: str, secret: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(f"{bucket}-that-is-not-there/job", secret)
    checkpoints = Checkpoints(store, 2, Told())
    copy = begin(checkpoints, folder, 2)
    with pytest.raises(Failure) as caught:
        begin(checkpoints, folder, 4)
    assert caught.value.reason is Reason.OUTPUT_NOT_WRITABLE
    assert copy.exists()
    begin(checkpoints, folder, 6)
    checkpoints.__exit__(ZeroDivisionError, ZeroDivisionError(), None)  # the first error is the one to tell
    assert "a checkpoint was not stored: " in capsys.readouterr().out
