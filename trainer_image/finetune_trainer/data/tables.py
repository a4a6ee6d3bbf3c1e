"""Rows of tables: Parquet and Arrow by pyarrow, CSV by the standard library; and compressed files of any kind."""

import bz2
import csv
import gzip
import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet

from finetune_trainer.data.arrays import LONGEST_ROW
from finetune_trainer.data.findings import Broken

ROWS_AT_A_TIME = 1000
CODECS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".zst": lambda path: io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), 1 << 20),
}
DAMAGED = (pa.ArrowException, OSError, EOFError, zlib.error, ValueError, csv.Error)
"""What the readers raise for bytes that are not what the name promises."""
Rows = Iterator[tuple[str, dict[str, Any] | Broken]]


def opened(path: Path, codec: str) -> BinaryIO:
    """The file's bytes, uncompressed on the way."""
    file: BinaryIO = CODECS[codec](path) if codec else path.open("rb")
    return file


def csv_rows(file: BinaryIO) -> Rows:
    """A header, then rows of strings; an empty field is an empty string."""
    csv.field_size_limit(LONGEST_ROW)
    # Bytes that are not UTF-8 are carried along, so that the row they are in can be named.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text, strict=True)
    while True:
        line = reader.line_num + 1 if reader.line_num else 2
        row = next(reader, None)
        if row is None:
            return
        yield f"line {line}", _csv_row(row)


def _csv_row(row: dict[Any, Any]) -> dict[str, Any] | Broken:
    if None in row:
        return Broken("", f"{len(row[None])} fields more than the header has", "as many fields as the header")
    for column, value in row.items():
        if value is not None and not value.isascii() and any("\udc80" <= each <= "\udcff" for each in value):
            return Broken(str(column), "bytes that are not UTF-8", "CSV in UTF-8")
    return {column: value for column, value in row.items() if value is not None}


def _parquet(path: Path, codec: str) -> Rows:
    with _seekable(path, codec) as file, pyarrow.parquet.ParquetFile(file) as table:
        yield from _numbered(table.iter_batches(batch_size=ROWS_AT_A_TIME))


def _arrow(path: Path, codec: str) -> Rows:
    """An Arrow file, or a stream as the library datasets writes."""
    with _seekable(path, codec) as file:
        try:
            table = pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            yield from _numbered(pa.ipc.open_stream(file))
            return
        yield from _numbered(table.get_batch(index) for index in range(table.num_record_batches))


def _numbered(batches: Any) -> Rows:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_AT_A_TIME):
            for row in batch.slice(start, ROWS_AT_A_TIME).to_pylist():
                number += 1
                yield f"row {number}", {column: _without_gaps(value) for column, value in row.items()}


def _without_gaps(value: Any) -> Any:
    """All structures of a column have the same members; those a row does not use are null, and left out."""
    if isinstance(value, dict):
        return {key: _without_gaps(item) for key, item in value.items() if item is not None}
    return [_without_gaps(item) for item in value] if isinstance(value, list) else value


def _seekable(path: Path, codec: str) -> Any:
    """These files are read from their end; a compressed one is uncompressed onto the disk."""
    if not codec:
        return pa.memory_map(str(path)) if path.stat().st_size else path.open("rb")
    whole = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - the caller closes it
    with opened(path, codec) as compressed:
        while data := compressed.read(1 << 20):
            whole.write(data)
    whole.seek(0)
    return whole


READERS: dict[str, Callable[[Path, str], Rows]] = {".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow}
