"""Checkpoints in a real store: a manifest makes one, the newest valid one is found, old ones go manifest first."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from finetune_api.artifacts import Manifest
from finetune_storage import Store, commit_folder, open_store
from finetune_trainer.checkpoints import Checkpoints


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


def committed(store: Store) -> list[str]:
    """Folders with a manifest."""
    return [key.split("/")[1] for key in store.list("checkpoints/") if key.endswith("/manifest.json")]


def test_the_newest_two_are_kept(store: Store, folder: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(store)
    assert checkpoints.fetch_newest(tmp_path / "none") is None
    for step in (2, 4, 10):
        written = checkpoints.commit(folder, step)
    assert written.uri == store.uri("checkpoints/step-000010")
    assert committed(store) == ["step-000004", "step-000010"]
    assert not store.list("checkpoints/step-000002")
    assert checkpoints.fetch_newest(tmp_path / "found") == 10
    assert (tmp_path / "found" / "weights").read_text() == "weights"


@pytest.mark.parametrize("damage", ["changed", "lost", "torn", "another step's"])
def test_a_damaged_one_is_removed_for_the_one_before(store: Store, folder: Path, tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(store)
    for step in (2, 4):
        checkpoints.commit(folder, step)
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
    checkpoints.commit(folder, 3)
    assert committed(store) == ["step-000002", "step-000003"]


def test_a_removal_cut_short_leaves_no_half_checkpoint(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(store)
    for step in (2, 4):
        checkpoints.commit(folder, step)
    delete = store.delete

    def one_and_no_more(keys: Iterable[str]) -> None:
        delete(list(keys)[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "delete", one_and_no_more)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.commit(folder, 6)
    assert committed(store) == ["step-000004", "step-000006"]
