"""Classes a model never saw, and rows left out by length: decided while the prepared rows are counted."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import DatasetSpec, Quality
from finetune_trainer.data.examining import Examined, Looking, examine
from finetune_trainer.data.findings import Findings
from finetune_trainer.data.preview import preview
from finetune_trainer.data.progress import Progress
from finetune_trainer.data.sources import SourceFile
from finetune_trainer.data.splits import Wanted, prepare_splits
from finetune_trainer.encode import Encoder
from json_lines import jsonl
from tiny_models import word_tokenizer


def examined(folder: Path, sources: dict[str, list[dict[str, Any]]], method: str, **quality: Any) -> Examined:
    """Prepare and examine sources."""
    files, spec = [], {split: {"uri": f"s3://bucket/{split}.jsonl"} for split in sources}
    for split in ("test", "validation", "train"):
        if split in sources:
            path = folder / f"{split}.source"
            path.write_bytes(jsonl(sources[split]))
            files.append(SourceFile(split, f"{split}.jsonl", path))
    silent = Progress(lambda *_: None)
    data = prepare_splits(
        files, Wanted(DatasetSpec.model_validate(spec), method, frozenset(), 1), folder / "data", silent, Findings()
    )
    encoder = Encoder(word_tokenizer(), "Text", True, None)
    return examine(data, Looking(encoder, Quality(**quality), frozenset(), ()), silent)


def a_class(text: str, label: str) -> dict[str, str]:
    return {"text": text, "label": label}


def test_a_class_that_no_training_row_has_is_refused(tmp_path: Path) -> None:
    train = [a_class("a", "spam"), a_class("b", "ham")]
    assert examined(tmp_path, {"train": train, "test": [a_class("c", "ham")]}, "classification").surveys["test"].labels
    with pytest.raises(Failure, match="test has 1 class that no training row has: 'eggs'") as end:
        examined(tmp_path, {"train": train, "test": [a_class("c", "eggs")]}, "classification")
    assert end.value.reason is Reason.DATA_INVALID


def test_rows_out_of_range_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "word " * count} for count in (1, 3, 5, 7)]
    found = examined(tmp_path, {"train": rows}, "cpt", min_tokens=4, max_tokens=6)  # each ends with </s>
    assert list(found.lengths["train"].tokens) == [4, 6]
    assert found.out_of_range == 2
    assert len((tmp_path / "data" / "train.jsonl").read_text().splitlines()) == 2


def test_rows_of_a_split_that_is_left_without_are_not_counted_with_those_of_another(tmp_path: Path) -> None:
    short = [{"text": f"word {place}"} for place in range(3)]
    with pytest.raises(Failure, match="no rows are left for train: of 3 rows 3 have fewer tokens"):
        examined(tmp_path, {"train": short, "test": [{"text": "one"}, {"text": "word " * 5}]}, "cpt", min_tokens=4)


def test_the_preview_marks_what_is_learned(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "what is", "completion": " this"}\n')
    lines = preview(path, Encoder(word_tokenizer(), "PromptCompletion", True, None), 3).splitlines()
    assert lines[-3:] == [
        "row 1: 4 tokens, 2 of them learned",
        "    see     0-1     <unk>|<unk>",
        "  learn     2-3     <unk>|</s>",
    ]


def test_the_preview_shows_no_personal_data(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "who?", "completion": " ann@example.org"}\n')
    shown = preview(path, Encoder(word_tokenizer(), "PromptCompletion", True, None), 3)
    assert shown.endswith("row 1: not shown, it seems to hold a secret or personal data\n")
