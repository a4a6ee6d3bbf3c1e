"""General rows among the training rows: their share of the tokens, drawn and placed the same way every time."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import DatasetSpec, Quality
from finetune_trainer.data.examining import Examined, Looking, examine
from finetune_trainer.data.findings import Findings
from finetune_trainer.data.mixing import Mixing, merged
from finetune_trainer.data.progress import Progress
from finetune_trainer.data.sources import Role, SourceFile
from finetune_trainer.data.splits import Wanted, prepare_splits
from finetune_trainer.encode import Encoder
from tiny_models import word_tokenizer

OWN = [f"own {i} of some words" for i in range(40)]
GENERAL = [f"general {i} with " + "more " * (i % 5) for i in range(200)]


def mixed(folder: Path, sources: dict[Role, list[str]], share: float, seed: int = 1, **quality: Any) -> Examined:
    """Prepare and examine texts; train.jsonl lies in the folder afterwards."""
    folder.mkdir(exist_ok=True)
    files = []
    for role in ("test", "train", "mix"):
        if role in sources:
            path = folder / f"{role}.source"
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sources[role]))
            files.append(SourceFile(role, f"{role}.jsonl", path))
    spec = {role: {"uri": f"s3://bucket/{role}.jsonl"} for role in sources if role != "mix"}
    wanted = Wanted(DatasetSpec.model_validate(spec | {"quality": quality}), "cpt", frozenset(), seed)
    silent = Progress(lambda *_: None)
    data = prepare_splits(files, wanted, folder / "data", silent, Findings())
    encoder = Encoder(word_tokenizer(), "Text", True, None)
    looking = Looking(encoder, Quality(**quality), frozenset(), (), Mixing(share, seed))
    return examine(data, looking, silent)


def texts(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / "data" / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_the_share_is_one_of_tokens(tmp_path: Path, share: float) -> None:
    found = mixed(tmp_path, {"train": OWN, "mix": GENERAL}, share)
    lengths = found.lengths["train"].tokens
    longest_general = 8
    assert sum(found.mixed.tokens) / sum(lengths) == pytest.approx(share, abs=longest_general / sum(lengths))
    written = texts(tmp_path)
    assert [text for text in written if text in OWN] == OWN
    assert len(set(written)) == len(written) == len(OWN) + len(found.mixed.tokens) == len(lengths)
    assert list(lengths) == [len(text.split()) + 1 for text in written]  # </s>
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["train.jsonl"]


def test_the_seed_decides_which_rows_and_their_order_in_the_file_does_not(tmp_path: Path) -> None:
    for name, general, seed in (("one", GENERAL, 1), ("two", GENERAL[::-1], 1), ("three", GENERAL, 2)):
        mixed(tmp_path / name, {"train": OWN, "mix": general}, 0.3, seed)
    assert texts(tmp_path / "one") == texts(tmp_path / "two") != texts(tmp_path / "three")


def test_general_rows_stand_evenly_among_the_others() -> None:
    assert [is_general for is_general, _ in merged(6, 3)] == [False, False, True] * 3
    assert [is_general for is_general, _ in merged(2, 5)] == [False, True, True, False, True, True, True]
    assert [place for is_general, place in merged(6, 3) if is_general] == [0, 1, 2]


def test_what_is_held_out_or_there_already_is_not_mixed_in(tmp_path: Path) -> None:
    held_out = "a held out row"
    sources: dict[Role, list[str]] = {"test": [held_out], "train": OWN, "mix": [held_out, OWN[0], *GENERAL[:3]]}
    with pytest.raises(Failure, match=r"dataset\.mix\.source have 15; .* set a share of at most 0\.058"):
        mixed(tmp_path, sources, 0.5)


def test_general_rows_that_do_not_suffice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"a share of 0\.5 beside 240 tokens of the dataset.s own takes 240") as end:
        mixed(tmp_path, {"train": OWN, "mix": GENERAL[:2]}, 0.5)
    assert end.value.reason is Reason.DATA_INVALID
    with pytest.raises(Failure, match="no rows are left for mix"):
        mixed(tmp_path, {"train": OWN, "mix": OWN}, 0.5)
