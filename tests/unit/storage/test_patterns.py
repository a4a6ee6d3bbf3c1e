"""What an address with placeholders stands for."""

from pathlib import Path

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_storage import datasets, fetch_rows, is_pattern, matching

NAMES = [
    "a.jsonl",
    "data/b.jsonl",
    "data/c.csv",
    "data/deep/d.jsonl",
    "data/_SUCCESS",
    "data/.hidden",
    "data/[1].jsonl",
]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("data/*.jsonl", ["data/b.jsonl", "data/[1].jsonl"]),
        ("data/?.*", ["data/b.jsonl", "data/c.csv"]),
        ("**/*.jsonl", ["a.jsonl", "data/b.jsonl", "data/deep/d.jsonl", "data/[1].jsonl"]),
        ("data/**", ["data/b.jsonl", "data/c.csv", "data/deep/d.jsonl", "data/[1].jsonl"]),
        ("data/deep/", ["data/deep/d.jsonl"]),
        ("data/[1].jsonl", ["data/[1].jsonl"]),
        ("dat", []),
    ],
)
def test_placeholders(pattern: str, found: list[str]) -> None:
    assert matching(NAMES, pattern) == found


@pytest.mark.parametrize(
    ("address", "several"), [("a/b.jsonl", False), ("a/*.jsonl", True), ("a/", True), ("a?", True)]
)
def test_an_address_of_several_files_is_known_by_its_look(address: str, several: bool) -> None:
    assert is_pattern(address) is several


class Bucket:
    """A store that has objects of these names, and notes where they are written."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.written: list[Path] = []

    def uri(self, key: str) -> str:
        return f"s3://bucket/{key}"

    def list(self, prefix: str) -> list[str]:
        return self.names

    def download(self, key: str, path: Path) -> None:
        self.written.append(path)


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.jsonl",
        "data/../../escaped.jsonl",
        "/etc/rows.jsonl",
        "a\\b.jsonl",
        "data//rows.jsonl",
        "./rows.jsonl",
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket("data/good.jsonl", name)
    monkeypatch.setattr(datasets, "open_store", lambda *args, **options: bucket)
    with pytest.raises(Failure) as end:
        fetch_rows("s3://bucket/**", tmp_path, None)
    assert end.value.reason is Reason.CONFIG_INVALID
    assert repr(name) in end.value.message
    assert bucket.written == []


def test_files_keep_their_names_below_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket("data/good.jsonl", "data/deep/rows.jsonl")
    monkeypatch.setattr(datasets, "open_store", lambda *args, **options: bucket)
    fetched = fetch_rows("s3://bucket/data/", tmp_path, None)
    assert [(each.name, each.path) for each in fetched] == [
        ("s3://bucket/data/good.jsonl", tmp_path / "data/good.jsonl"),
        ("s3://bucket/data/deep/rows.jsonl", tmp_path / "data/deep/rows.jsonl"),
    ]
    assert bucket.written == [each.path for each in fetched]
