"""Rows of a file, one at a time, whatever the file is: JSON lines, a JSON array, CSV, Parquet or Arrow, compressed or not.

A row's place is what a person finds it by: the line of a text file, else the row, both counted from 1.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from finetune_api.reasons import Failure, Reason
from finetune_trainer.data import tables
from finetune_trainer.data.arrays import LONGEST_ROW, array_rows, is_array
from finetune_trainer.data.findings import Broken, Findings

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
Places = Iterator[tuple[str, dict[str, Any] | Broken]]


def read_rows(path: Path, name: str, findings: Findings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and object of every row; what is none becomes a finding. Blank lines are skipped.

    Raises Failure where the file itself is damaged: compressed or binary data that ends too early, or is something else.
    """
    for place, row in _places(path, name):
        findings.rows += 1
        if isinstance(row, Broken):
            findings.add(name, place, row)
        else:
            yield place, row


def _places(path: Path, name: str) -> Places:
    kind, codec = kind_of(path.name)
    try:
        if kind in tables.READERS:
            yield from tables.READERS[kind](path, codec)
            return
        with tables.opened(path, codec) as file:
            yield from TEXT_READERS[kind](file)
    except tables.DAMAGED as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Failure(Reason.DATA_INVALID, f"{name} cannot be read as {kind}{codec}: {said}") from None


def kind_of(name: str) -> tuple[str, str]:
    """How a file holds rows, told by its name, and its compression: (".jsonl", ".gz"); JSON lines where the name says nothing."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    codec = suffixes.pop() if suffixes and suffixes[-1] in tables.CODECS else ""
    kind = suffixes[-1] if suffixes else ""
    return (kind if kind in tables.READERS or kind in TEXT_READERS else ".jsonl"), codec


def _json(file: BinaryIO) -> Places:
    """An array of rows; many files of that name hold JSON lines, which is seen at their first character."""
    beginning = file.read(64 * 1024)
    return array_rows(beginning, file) if is_array(beginning) else _json_lines(file, beginning)


def _json_lines(file: BinaryIO, beginning: bytes = b"") -> Places:
    for number, line in _lines(file, beginning):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] | Broken = _parse(line)
        except Broken as broken:
            row = broken
        yield f"line {number}", row


def _lines(file: BinaryIO, beginning: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines with their number; of one longer than a row may be only the beginning."""
    *whole, rest = beginning.split(b"\n")
    number = 0
    for number, line in enumerate(whole, start=1):
        yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
    while line := rest + file.readline(LONGEST_ROW + 1):
        rest = b""
        number += 1
        yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        while len(line) > LONGEST_ROW and not line.endswith(b"\n"):  # _parse refuses the beginning
            line = file.readline(LONGEST_ROW + 1)


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_ROW:
        raise Broken("", f"a line of more than {LONGEST_ROW // 2**20} MiB", "JSON lines: one object per line")
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise Broken("", f"bytes that are not UTF-8 at column {error.start + 1}", "JSON lines in UTF-8") from None
    except json.JSONDecodeError as error:
        raise Broken("", f"no valid JSON ({error.msg} at column {error.colno})", "one JSON object per line") from None
    except RecursionError:
        raise Broken("", "JSON nested too deeply", "one JSON object per line") from None
    except ValueError:  # Python's limit for the digits of an integer; all else that is wrong has a class of its own
        raise Broken("", "a number of too many digits", "one JSON object per line") from None
    if not isinstance(row, dict):
        kind = "a list" if isinstance(row, list) else "a single value"
        raise Broken("", kind, "one JSON object per line")
    return row


TEXT_READERS: dict[str, Callable[[BinaryIO], Places]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": tables.csv_rows,
}
