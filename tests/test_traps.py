"""The page of traps names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "decisions" / "2026-11-25-traps.md"


def test_every_named_test_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"def (test_\w+)\(", code))
    assert len(named) > 30
    assert named - defined == set()


def test_every_trap_has_a_row() -> None:
    rows = re.findall(r"^\| (\d+) \| .+ \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number in rows] == list(range(1, 28))
