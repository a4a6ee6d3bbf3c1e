"""What an address with placeholders stands for."""

import pytest

from finetune_storage import is_pattern, matching

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
