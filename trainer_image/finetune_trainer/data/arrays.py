"""Rows of a JSON array, one at a time: the file may be larger than the memory."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from finetune_trainer.data.findings import Broken, describe

LONGEST_ROW = 32 * 2**20
"""Bytes of a line, characters of an element; a file that is one long row must not fill the memory."""
CHUNK = 1 << 20
BETWEEN = " \t\r\n,"


def is_array(beginning: bytes) -> bool:
    """Whether a file begins with a JSON array."""
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def array_rows(beginning: bytes, file: BinaryIO) -> Iterator[tuple[str, dict[str, Any] | Broken]]:
    """Place ("row N") and each element. Raises ValueError where the array itself is broken: what follows cannot be found."""
    decoder = json.JSONDecoder()
    chunks = _decoded(beginning, file)
    text, at, number = next(chunks, "").lstrip("\ufeff \t\r\n"), 1, 0
    while True:
        while at < len(text) and text[at] in BETWEEN:
            at += 1
        if text[at : at + 1] == "]":
            return
        row, end = _element(decoder, text, at)
        # At the end of what was read, a number or a name may go on in what was not.
        if end is None or end == len(text):
            more = next(chunks, None)
            if more is None:
                raise ValueError(f"the array has no end after row {number}")
            if len(text) - at > LONGEST_ROW:
                raise ValueError(f"row {number + 1} has more than {LONGEST_ROW // 2**20} MiB, or is no valid JSON")
            text, at = text[at:] + more, 0
            continue
        number += 1
        yield f"row {number}", row if isinstance(row, dict) else Broken("", describe(row), "one JSON object per row")
        at = end


def _element(decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int | None]:
    try:
        return decoder.raw_decode(text, at)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except json.JSONDecodeError:
        return None, None


def _decoded(beginning: bytes, file: BinaryIO) -> Iterator[str]:
    """The file's text; each piece doubles what was read, so that a long row is tried a few times only."""
    decoder, size = codecs.getincrementaldecoder("utf-8")(), CHUNK
    data = beginning
    while data:
        yield decoder.decode(data)
        data = file.read(size)
        size = min(2 * size, LONGEST_ROW)
    decoder.decode(b"", final=True)
