"""From source files to prepared splits: every row checked, duplicates and leaks removed, the rest cut by a seeded shuffle."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from finetune_api.artifacts import PreparedFormat
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import Columns, DatasetSpec, Quality, Split
from finetune_trainer.data.cleaning import cut, row_digest
from finetune_trainer.data.fields import Row
from finetune_trainer.data.findings import Broken, Findings
from finetune_trainer.data.formats import (
    COLUMNS,
    METHOD_FORMATS,
    RowFormat,
    canonical,
    foreign_columns,
    methods_of,
    names,
    prepared_format,
    prepared_rows,
    tell,
)
from finetune_trainer.data.reading import read_rows
from finetune_trainer.data.sources import HELD_OUT_FIRST, SourceFile, SplitName


@dataclass(frozen=True)
class Wanted:
    """What shall become of the rows."""

    dataset: DatasetSpec
    method: str
    labels: frozenset[str]
    """Allowed answers; empty: any."""
    seed: int
    """Of the cut."""


class Prepared(NamedTuple):
    """Prepared files and what was left out."""

    row_format: RowFormat
    """Shape of the source's rows."""
    format: PreparedFormat
    """Shape of the prepared rows."""
    files: dict[SplitName, Path]
    rows: dict[SplitName, int]
    duplicates: int
    invalid: int


class _Checked(NamedTuple):
    """A source's valid rows in their prepared form, and the digest of each."""

    split: SplitName
    path: Path
    digests: list[bytes]


def prepare_splits(sources: list[SourceFile], wanted: Wanted, folder: Path) -> Prepared:
    """Write train.jsonl and the held-out files into ``folder``. ``sources`` has the held-out ones first, and train's last."""
    quality = wanted.dataset.quality or Quality()
    findings = Findings()
    by_split = {split: [source for source in sources if source.split == split] for split in HELD_OUT_FIRST}
    format_ = _format(by_split["train"], wanted)
    folder.mkdir(parents=True, exist_ok=True)
    checked = [_check(split, files, format_, wanted, findings, folder) for split, files in by_split.items() if files]
    if findings.count and quality.on_invalid_row != "Drop":
        raise Failure(
            Reason.DATA_INVALID,
            f"{findings.sentence()}. Correct them, or leave them out with dataset.quality.onInvalidRow: Drop",
        )
    rows, duplicates = _distribute(checked, wanted, folder, keep_copies=quality.deduplicate == "None")
    _refuse_empty(rows, wanted, findings, duplicates)
    files = {split: folder / f"{split}.jsonl" for split in rows}
    return Prepared(format_, prepared_format(format_, wanted.method), files, rows, duplicates, findings.count)


def _format(train: list[SourceFile], wanted: Wanted) -> RowFormat:
    """As stated, or as the first row's fields tell; one the method learns from."""
    columns = wanted.dataset.columns or Columns()
    stated = wanted.dataset.format
    found: RowFormat = _first_format(train, wanted) if stated in (None, "Auto") else stated  # type: ignore[assignment]
    possible = METHOD_FORMATS[wanted.method]
    if found not in possible:
        raise Failure(
            Reason.DATA_INVALID,
            f"{train[0].name}: rows of format {found} do not fit method {wanted.method}, which learns from "
            f"{' or '.join(possible)}; to learn from them use method {' or '.join(methods_of(found))}",
        )
    if foreign := foreign_columns(found, columns):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"dataset.columns: format {found} has no column {', '.join(foreign)}; it has {', '.join(COLUMNS[found])}",
        )
    return found


def _first_format(train: list[SourceFile], wanted: Wanted) -> RowFormat:
    columns = wanted.dataset.columns or Columns()
    seen = Findings()
    for name, place, row in _rows(train, seen):
        if (found := tell(row, columns, wanted.method)) is not None:
            return found
        fields = ", ".join(sorted(str(key)[:40] for key in row)[:8]) or "none"
        choices = "; ".join(f"{name}: {', '.join(names(name, columns).values())}" for name in COLUMNS)
        raise Failure(
            Reason.DATA_INVALID,
            f"{name} {place}: the row's fields ({fields}) are those of no format ({choices}); "
            "name the dataset's own fields in dataset.columns",
        )
    if seen.count:
        raise Failure(Reason.DATA_INVALID, seen.sentence())
    raise Failure(Reason.DATA_INVALID, f"{' and '.join(source.name for source in train[:3])}: there are no rows")


def _rows(sources: list[SourceFile], findings: Findings) -> Iterator[tuple[str, str, Row]]:
    """File, place and object of every row."""
    for source in sources:
        for place, row in read_rows(source.path, source.name, findings):
            yield source.name, place, row


def _check(
    split: SplitName, sources: list[SourceFile], format_: RowFormat, wanted: Wanted, findings: Findings, folder: Path
) -> _Checked:
    columns = wanted.dataset.columns or Columns()
    checked = _Checked(split, folder / f"{split}.checked", [])
    with checked.path.open("wb") as out:
        for name, place, row in _rows(sources, findings):
            try:
                prepared = canonical(row, format_, columns, wanted.labels)
            except Broken as broken:
                findings.add(name, place, broken)
                continue
            for each in prepared_rows(prepared, format_, wanted.method):
                checked.digests.append(row_digest(each))
                out.write(json.dumps(each, ensure_ascii=False).encode() + b"\n")
    return checked


def _distribute(
    checked: list[_Checked], wanted: Wanted, folder: Path, *, keep_copies: bool
) -> tuple[dict[SplitName, int], int]:
    """Write each row into its split; rows per split, and how many were left out as copies."""
    rows: dict[SplitName, int] = dict.fromkeys(_splits(wanted.dataset), 0)
    copies = 0
    elsewhere: set[bytes] = set()
    with ExitStack() as stack:
        files = {split: stack.enter_context((folder / f"{split}.jsonl").open("wb")) for split in rows}
        for part in checked:
            here: set[bytes] = set()
            held_out: dict[bytes, SplitName] = {}
            if part.split == "train":
                held_out = cut(set(part.digests) - elsewhere, wanted.dataset.split or Split(), wanted.seed)
            for line, digest in zip(_lines(part.path), part.digests, strict=True):
                if digest in elsewhere or (digest in here and not keep_copies):
                    copies += 1
                    continue
                here.add(digest)
                split = held_out.get(digest, part.split)
                files[split].write(line)
                rows[split] += 1
            elsewhere |= here
            part.path.unlink()
    return rows, copies


def _splits(dataset: DatasetSpec) -> list[SplitName]:
    """The splits there will be."""
    share = dataset.split or Split()
    return [
        split
        for split in reversed(HELD_OUT_FIRST)
        if getattr(dataset, split) is not None or getattr(share, split, None) is not None
    ]


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _refuse_empty(rows: dict[SplitName, int], wanted: Wanted, findings: Findings, duplicates: int) -> None:
    empty = [split for split, count in rows.items() if count == 0]
    if empty:
        raise Failure(
            Reason.DATA_INVALID,
            f"no rows are left for {' and '.join(empty)}: of {findings.rows} rows read {findings.count} are invalid and "
            f"{duplicates} repeat another row of the same or of a held-out split",
        )
