"""Which row ends in which split: seeded, the same everywhere, and nothing held out is trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import DatasetSpec, Split
from finetune_trainer.data.cleaning import cut, row_digest
from finetune_trainer.data.findings import Findings
from finetune_trainer.data.progress import Progress
from finetune_trainer.data.sources import SourceFile
from finetune_trainer.data.splits import Prepared, Wanted, prepare_splits
from json_lines import jsonl

DIGESTS = {row_digest({"text": str(i)}) for i in range(100)}


def a_text(i: int) -> dict[str, Any]:
    return {"text": f"text {i}"}


def prepared(folder: Path, sources: dict[str, list[dict[str, Any]]], seed: int = 42, **dataset: Any) -> Prepared:
    """Prepare sources of texts."""
    files = []
    for split in ("test", "validation", "train"):
        if split in sources:
            path = folder / f"{split}.source"
            path.write_bytes(jsonl(sources[split]))
            files.append(SourceFile(split, f"{split}.jsonl", path))
            dataset[split] = {"uri": f"s3://bucket/{split}.jsonl"}
    wanted = Wanted(DatasetSpec.model_validate(dataset), "cpt", frozenset(), seed)
    return prepare_splits(files, wanted, folder / "data", Progress(lambda *_: None), Findings())


def halved(path: Path, dataset: dict[str, Any]) -> Prepared:
    """Prepare preferences for kto."""
    spec = {"train": {"uri": "s3://bucket/pairs.jsonl"}} | dataset
    wanted = Wanted(DatasetSpec.model_validate(spec), "kto", frozenset(), 1)
    files = [SourceFile("train", "pairs.jsonl", path)]
    return prepare_splits(files, wanted, path.parent / "data", Progress(lambda *_: None), Findings())


def rows(found: Prepared, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in found.files[split].read_text().splitlines()]  # type: ignore[index]


class TestCut:
    def test_shares_are_exact_and_disjoint(self) -> None:
        found = cut(DIGESTS, Split(test=0.2, validation=0.1), 42)
        assert sorted(found.values()) == ["test"] * 20 + ["validation"] * 10

    def test_it_is_pinned(self) -> None:
        """The same rows on every machine and in every version: else a second attempt would evaluate on trained rows."""
        found = cut({row_digest({"text": str(i)}) for i in range(6)}, Split(test=0.34), 7)
        assert sorted(digest.hex()[:8] for digest in found) == ["559ae90a", "dde37c0d"]

    def test_another_seed_is_another_cut(self) -> None:
        assert cut(DIGESTS, Split(test=0.2), 1) != cut(DIGESTS, Split(test=0.2), 2)

    def test_a_share_is_at_least_one_row(self) -> None:
        assert len(cut(DIGESTS, Split(test=0.001), 1)) == 1


class TestDigest:
    def test_white_space_around_and_unicode_form_do_not_matter(self) -> None:
        assert row_digest({"text": " caf\u00e9\r\n"}) == row_digest({"text": "cafe\u0301"})

    def test_white_space_within_matters(self) -> None:
        assert row_digest({"text": "if x:\n  y"}) != row_digest({"text": "if x:\n y"})


class TestSplits:
    def test_the_order_of_rows_does_not_change_the_cut(self, tmp_path: Path) -> None:
        texts = [a_text(i) for i in range(30)]
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        first = prepared(one, {"train": texts}, split={"test": 0.2})
        second = prepared(two, {"train": texts[::-1]}, split={"test": 0.2})
        assert rows(first, "test") == rows(second, "test")[::-1]
        assert first.rows == {"train": 24, "test": 6}

    def test_duplicates_are_left_out_and_counted(self, tmp_path: Path) -> None:
        found = prepared(tmp_path, {"train": [a_text(1), a_text(2), {"text": "text 1 "}]})
        assert rows(found, "train") == [a_text(1), a_text(2)]
        assert found.duplicates == 1

    def test_duplicates_can_stay(self, tmp_path: Path) -> None:
        found = prepared(tmp_path, {"train": [a_text(1), a_text(1)]}, quality={"deduplicate": "None"})
        assert (found.rows, found.duplicates) == ({"train": 2}, 0)

    def test_what_is_held_out_is_never_trained_on(self, tmp_path: Path) -> None:
        sources = {
            "train": [a_text(i) for i in range(6)],
            "validation": [a_text(1), a_text(2)],
            "test": [a_text(2), a_text(3)],
        }
        found = prepared(tmp_path, sources, quality={"deduplicate": "None"})
        assert rows(found, "test") == [a_text(2), a_text(3)]
        assert rows(found, "validation") == [a_text(1)]
        assert rows(found, "train") == [a_text(0), a_text(4), a_text(5)]
        assert found.duplicates == 4

    def test_copies_of_a_held_out_row_go_with_it(self, tmp_path: Path) -> None:
        texts = [a_text(i % 10) for i in range(40)]
        found = prepared(tmp_path, {"train": texts}, split={"test": 0.3}, quality={"deduplicate": "None"})
        held_out = {row["text"] for row in rows(found, "test")}
        assert held_out.isdisjoint(row["text"] for row in rows(found, "train"))
        assert found.rows == {"train": 28, "test": 12}

    def test_a_split_that_is_left_without_rows_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Failure) as end:
            prepared(tmp_path, {"train": [a_text(1)], "test": [a_text(1)]})
        assert end.value.reason is Reason.DATA_INVALID
        assert "no rows are left for train" in end.value.message

    def test_findings_name_the_file_of_each_source(self, tmp_path: Path) -> None:
        with pytest.raises(Failure) as end:
            prepared(tmp_path, {"train": [a_text(1), {}], "test": [{"text": 1}]})
        assert "train.jsonl line 2" in end.value.message
        assert "test.jsonl line 1" in end.value.message

    def test_good_and_bad_answers_to_a_long_prompt_are_no_near_duplicates(self, tmp_path: Path) -> None:
        pair = {"prompt": " ".join(f"w{i}" for i in range(200)), "chosen": "yes", "rejected": "no"}
        path = tmp_path / "pairs.source"
        path.write_text(json.dumps(pair) + "\n")
        found = halved(path, {"quality": {"deduplicate": "Near"}})
        assert (found.rows, found.near_duplicates) == ({"train": 2}, 0)

    def test_both_sides_of_a_preference_fall_into_one_split(self, tmp_path: Path) -> None:
        """Else an answer is learned whose counterpart is asked for, and nothing held out can be preferred."""
        pairs = [{"prompt": f"question {i % 20}", "chosen": f"yes {i}", "rejected": f"no {i % 20}"} for i in range(30)]
        path = tmp_path / "pairs.source"
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        found = halved(path, {"split": {"test": 0.2, "validation": 0.1}})
        prompts = {split: {row["prompt"] for row in rows(found, split)} for split in found.files}
        assert {split: len(asked) for split, asked in prompts.items()} == {"train": 14, "validation": 2, "test": 4}
        assert sum(map(len, prompts.values())) == len(set().union(*prompts.values())), "no prompt is in two splits"
        for split, asked in prompts.items():
            bad = {row["prompt"] for row in rows(found, split) if not row["label"]}
            assert bad == asked == {row["prompt"] for row in rows(found, split) if row["label"]}

    def test_preferences_with_one_prompt_cannot_be_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.source"
        pairs = [{"prompt": "same", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(9)]
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        with pytest.raises(Failure, match=r"have 1 different prompts: too few to cut; name files of dataset\.test"):
            halved(path, {"split": {"test": 0.2}})
