"""Rows of a file of JSON lines, one at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.data.findings import Broken, Findings

LONGEST_LINE = 32 * 2**20
"""Bytes; a file that is one long line must not fill the memory."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_rows(path: Path, name: str, findings: Findings) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that holds one; others become findings. Blank lines are skipped."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        findings.rows += 1
        try:
            row = _parse(line)
        except Broken as broken:
            findings.add(name, number, broken)
        else:
            yield number, row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            while len(line) > LONGEST_LINE and not line.endswith(b"\n"):  # _parse refuses the beginning
                line = file.readline(LONGEST_LINE + 1)


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise Broken("", f"a line of more than {LONGEST_LINE // 2**20} MiB", "JSON lines: one object per line")
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise Broken("", f"bytes that are not UTF-8 at column {error.start + 1}", "JSON lines in UTF-8") from None
    except json.JSONDecodeError as error:
        raise Broken("", f"no valid JSON ({error.msg} at column {error.colno})", "one JSON object per line") from None
    except RecursionError:
        raise Broken("", "JSON nested too deeply", "one JSON object per line") from None
    if not isinstance(row, dict):
        kind = "a list" if isinstance(row, list) else "a single value"
        raise Broken("", kind, "one JSON object per line")
    return row
