"""From source files to prepared splits: every row checked, duplicates and leaks removed, the rest cut by a seeded shuffle."""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune_api.artifacts import PreparedFormat
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import Columns, DatasetSpec, Quality, Split
from finetune_trainer.data.cleaning import cut, row_digest
from finetune_trainer.data.fields import Row
from finetune_trainer.data.findings import Broken, Findings
from finetune_trainer.data.formats import RowFormat, canonical, prepared_format, prepared_rows
from finetune_trainer.data.near import HASHES, near_duplicates, signature
from finetune_trainer.data.progress import Progress
from finetune_trainer.data.sources import HELD_OUT_FIRST, Role, SourceFile, SplitName
from finetune_trainer.data.telling import row_format, rows_of
from finetune_trainer.data.words import own_text

ROLES: tuple[Role, ...] = (*HELD_OUT_FIRST, "mix")


@dataclass(frozen=True)
class Wanted:
    """What shall become of the rows."""

    dataset: DatasetSpec
    method: str
    labels: frozenset[str]
    """Allowed answers; empty: any."""
    seed: int
    """Of the cut."""


@dataclass
class Prepared:
    """Prepared files, what was read, and what was left out."""

    row_format: RowFormat
    """Shape of the source's rows."""
    format: PreparedFormat
    """Shape of the prepared rows."""
    files: dict[SplitName, Path]
    general: Path | None
    """Rows to mix into train, of which a share is drawn when tokens are counted."""
    rows: dict[Role, int]
    findings: Findings
    sources: dict[str, int]
    """Rows per file, valid or not."""
    duplicates: int = 0
    near_duplicates: int | None = None
    """None where they were not looked for."""

    @property
    def invalid(self) -> int:
        """Rows left out, as they are none of the format."""
        return self.findings.count


class _Checked(NamedTuple):
    """The valid rows of a split's sources in their prepared form, and what they are compared by."""

    split: Role
    path: Path
    digests: list[bytes]
    groups: list[bytes]
    """What the cut keeps together: each row by itself, or both sides of every preference with the same prompt."""
    signatures: bytearray
    """256 bytes a row where near duplicates are looked for."""


def prepare_splits(
    sources: list[SourceFile], wanted: Wanted, folder: Path, progress: Progress, findings: Findings
) -> Prepared:
    """Write train.jsonl and the held-out files into ``folder``; ``findings`` takes the invalid rows."""
    quality = wanted.dataset.quality or Quality()
    by_split = {role: [source for source in sources if source.split == role] for role in ROLES}
    format_ = row_format(by_split["train"], wanted.dataset, wanted.method)
    splits = _splits(wanted.dataset)
    filled: list[Role] = [*splits, "mix"] if by_split["mix"] else [*splits]
    prepared = Prepared(
        row_format=format_,
        format=prepared_format(format_, wanted.method),
        files={split: folder / f"{split}.jsonl" for split in splits},
        general=folder / "general.jsonl" if by_split["mix"] else None,
        rows=dict.fromkeys(filled, 0),
        findings=findings,
        near_duplicates=0 if quality.deduplicate == "Near" else None,
        sources=dict.fromkeys((source.name for source in sources), 0),
    )
    folder.mkdir(parents=True, exist_ok=True)
    checked = [_check(split, files, prepared, wanted, progress) for split, files in by_split.items() if files]
    refuse_invalid(prepared.findings, quality)
    _distribute(checked, prepared, wanted)
    _refuse_empty(prepared)
    return prepared


def refuse_invalid(findings: Findings, quality: Quality) -> None:
    """Raises Failure where there are invalid rows, and they are not to be left out."""
    if findings.count and quality.on_invalid_row != "Drop":
        raise Failure(
            Reason.DATA_INVALID,
            f"{findings.sentence()}. Correct them, or leave them out with dataset.quality.onInvalidRow: Drop",
        )


def _check(split: Role, sources: list[SourceFile], prepared: Prepared, wanted: Wanted, progress: Progress) -> _Checked:
    columns, format_ = wanted.dataset.columns or Columns(), prepared.row_format
    near, is_halved = prepared.near_duplicates is not None, wanted.method == "kto" and format_ == "Preference"
    digests: list[bytes] = []
    path = prepared.files["train"].with_name(f"{split}.checked")
    checked = _Checked(split, path, digests, [] if is_halved else digests, bytearray())
    progress.begin(f"checking {split}")
    with checked.path.open("wb") as out:
        for name, place, row in rows_of(sources, prepared.findings):
            progress.step()
            prepared.sources[name] += 1
            try:
                valid = canonical(row, format_, columns, wanted.labels)
            except Broken as broken:
                prepared.findings.add(name, place, broken)
                continue
            for each in prepared_rows(valid, format_, wanted.method):
                digests.append(row_digest(each))
                if is_halved:
                    checked.groups.append(row_digest({"prompt": each["prompt"]}))
                if near:
                    checked.signatures.extend(_signature(each))
                out.write(json.dumps(each, ensure_ascii=False).encode() + b"\n")
    return checked


def _signature(row: Row) -> bytes:
    """A good and a bad answer to one prompt share most words, and are no copies of each other."""
    found = signature(own_text(row))
    return bytes(each ^ 255 for each in found) if row.get("label") is True else found


def _distribute(checked: list[_Checked], prepared: Prepared, wanted: Wanted) -> None:
    """Write each row into its split, but for copies; general rows come last, so that none repeats one of the dataset's own."""
    paths: dict[Role, Path] = dict(prepared.files) | ({"mix": prepared.general} if prepared.general else {})
    keep_copies = wanted.dataset.quality is not None and wanted.dataset.quality.deduplicate == "None"
    elsewhere: set[bytes] = set()
    near = iter(_near(checked))
    with ExitStack() as stack:
        files = {split: stack.enter_context(path.open("wb")) for split, path in paths.items()}
        for part in checked:
            here: set[bytes] = set()
            left_out = list(islice(near, len(part.digests)))
            held_out = _held_out(part, left_out, elsewhere, wanted)
            each = zip(_lines(part.path), part.digests, part.groups, left_out, strict=True)
            for line, digest, group, is_near in each:
                if digest in elsewhere or (digest in here and not keep_copies):
                    prepared.duplicates += 1
                    continue
                if is_near:
                    prepared.near_duplicates = (prepared.near_duplicates or 0) + 1
                    continue
                here.add(digest)
                split = held_out.get(group, part.split)
                files[split].write(line)
                prepared.rows[split] += 1
            elsewhere |= here
            part.path.unlink()


def _near(checked: list[_Checked]) -> Iterable[bool]:
    """For each row whether it is nearly an earlier one; those that are held out come first."""
    signatures = np.frombuffer(b"".join(part.signatures for part in checked), np.uint16)
    if not len(signatures):
        return (False for part in checked for _ in part.digests)
    return map(bool, near_duplicates(signatures.reshape(-1, HASHES)))


def _held_out(part: _Checked, left_out: list[bool], elsewhere: set[bytes], wanted: Wanted) -> dict[bytes, SplitName]:
    """The groups that the cut takes out of the training rows."""
    if part.split != "train" or wanted.dataset.split is None:
        return {}
    each = zip(part.digests, part.groups, left_out, strict=True)
    kept = {group for digest, group, is_near in each if not is_near and digest not in elsewhere}
    found = cut(kept, wanted.dataset.split, wanted.seed)
    if part.groups is not part.digests and len(found) == len(kept):
        raise Failure(
            Reason.DATA_INVALID,
            f"dataset.split keeps all answers to a prompt together, and the preferences have {len(kept)} different prompts: "
            "too few to cut; name files of dataset.test and validation instead",
        )
    return found


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


def _refuse_empty(prepared: Prepared) -> None:
    empty = [split for split, count in prepared.rows.items() if count == 0]
    if empty:
        raise Failure(
            Reason.DATA_INVALID,
            f"no rows are left for {' and '.join(empty)}: of {prepared.findings.rows} rows read {prepared.findings.count} "
            f"are invalid and {prepared.duplicates + (prepared.near_duplicates or 0)} repeat another row of the same or of a "
            "held-out split",
        )
