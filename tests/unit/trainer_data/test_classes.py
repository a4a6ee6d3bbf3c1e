"""The classes of the rows: found, and refused where they cannot be learned."""

import json
from pathlib import Path

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_trainer.data.classes import classes_of


def files(folder: Path, **splits: list[list[str]]) -> dict:  # type: ignore[type-arg]
    for name, rows in splits.items():
        (folder / name).write_text("".join(json.dumps({"text": "a", "labels": labels}) + "\n" for labels in rows))
    return {name: folder / name for name in splits}


def test_classes_are_those_of_the_training_rows(tmp_path: Path) -> None:
    assert classes_of(files(tmp_path, train=[["b"], ["a"]], test=[["a"]]), None) == (("a", "b"), False)
    assert classes_of(files(tmp_path, train=[["b", "a"], ["a"]]), None) == (("a", "b"), True)
    assert classes_of(files(tmp_path, train=[["b"], ["a"]], test=[["b", "a"]]), None) == (("a", "b"), True)
    assert classes_of(files(tmp_path, train=[["b"], ["a"], []]), ["b", "a"]) == (("b", "a"), True)


@pytest.mark.parametrize(
    ("splits", "stated", "says"),
    [
        ({"train": [["a"]]}, None, "have 1 classes; classification needs 2 to 1000"),
        ({"train": [[str(i)] for i in range(1001)]}, None, "have 1001 classes"),
        ({"train": [["a"], ["b" * 257]]}, None, "has over 256 characters"),
        ({"train": [["a"], ["c"]]}, ["a", "b"], "train has class 'c', which is none of method.classification.labels"),
        ({"train": [["c" * 41]]}, ["a", "b"], f"train has class '{'c' * 40}'…, which is none"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    tmp_path: Path, splits: dict[str, list[list[str]]], stated: list[str] | None, says: str
) -> None:
    with pytest.raises(Failure, match=says) as caught:
        classes_of(files(tmp_path, **splits), stated)
    assert caught.value.reason is Reason.DATA_INVALID
