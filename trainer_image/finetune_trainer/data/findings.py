"""What is wrong with a dataset's rows, in words that never quote a row."""

import json
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

SHOWN = 10
"""Findings in the message; the rest are counted."""
KEPT = 100
"""Findings in the report."""
LOGGED = 1000
"""Findings in the pod's log."""
KINDS = 1000
"""Kinds of findings that are told apart."""
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Finding:
    """The first problem of one row."""

    file: str
    place: str
    """As in "line 7" of a text file, "row 7" of any other."""
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = f", field {self.field}" if self.field else ""
        return f"{self.file} {self.place}{where}: found {self.found}, expected {self.expected}"


class Broken(Exception):
    """A row that cannot be used: where in it, what was found, what is expected."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(field)
        self.field = field
        self.found = found
        self.expected = expected


@dataclass
class Findings:
    """Invalid rows: the first ones in full, all of them counted, and written down where there is a file for it."""

    rows: int = 0
    """Rows read, valid or not."""
    count: int = 0
    first: list[Finding] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    file: TextIO | None = None
    """JSON lines."""
    kept_at: str = ""
    """Where the file will be found."""

    def add(self, file: str, place: str, broken: Broken) -> None:
        """Note an invalid row."""
        finding = Finding(file, place, broken.field, broken.found, broken.expected)
        self.count += 1
        if self.count <= KEPT:
            self.first.append(finding)
        if self.count <= LOGGED:
            print(finding, file=sys.stderr)
        kind = ": ".join(filter(None, (NUMBER.sub("", broken.field), NUMBER.sub("…", broken.found))))
        if kind in self.kinds or len(self.kinds) < KINDS:
            self.kinds[kind] += 1
        if self.file is not None:
            self.file.write(json.dumps(asdict(finding), ensure_ascii=False) + "\n")

    def sentence(self) -> str:
        """What the user reads."""
        where = f", all in {self.kept_at}" if self.kept_at else ""
        more = f"; and {self.count - SHOWN} more{where}" if self.count > SHOWN else ""
        listed = "; ".join(str(finding) for finding in self.first[:SHOWN])
        return f"{self.count} of {self.rows} rows {'is' if self.count == 1 else 'are'} invalid: {listed}{more}"


def describe(value: Any) -> str:
    """A value's type and size."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return f"a string of {len(value)} characters" if value.strip() else "an empty string"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case _:
            return "an object"
