"""What rows say, as words and runs of words: the ground of near duplicates and of contamination.

A word is a run of letters and digits, in lower case; in scripts without spaces each character is one.
"""

import re
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

SEPARATED = "".join(chr(code) if chr(code).isalnum() or chr(code) == "_" else " " for code in range(128))
"""ASCII with everything but words as a space: splitting there is four times as fast as the pattern that any text needs."""
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[^\W{UNSPACED}]+|[{UNSPACED}]")
NO_TEXT = frozenset({"role", "type", "id", "tool_call_id", "from", "tools"})
"""Members of a row that hold no text of their own."""
ALPACA_BEGINS = "Below is an instruction that describes a task"
MULTIPLIER = 0x9E3779B97F4A7C15
MOST_WORDS = 1_000_000


class _WordHashes(dict[str, int]):
    """The hash of each word met so far: most words of a row are known from an earlier one."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MOST_WORDS:
            self.clear()
        found = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return found


_HASHES = _WordHashes()


def own_text(value: Any) -> str:
    """All that a row says by itself: no system messages and no template, which all rows of a dataset share."""
    return "\n".join(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.partition("### Instruction:\n")[2] if value.startswith(ALPACA_BEGINS) else value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict) and value.get("role") != "system":
        for key, item in value.items():
            if key not in NO_TEXT:
                yield from _texts(item)


def runs(text: str, length: int, *, whole: bool) -> Hashes:
    """A hash per run of ``length`` words, in their order. Of a shorter text: one of all its words (``whole``), or none."""
    lower = text.lower()
    words = lower.translate(SEPARATED).split() if lower.isascii() else WORD.findall(lower)
    if not words or (len(words) < length and not whole):
        return np.empty(0, np.uint64)
    hashes = np.fromiter(map(_HASHES.__getitem__, words), np.uint64, len(words))
    found = np.convolve(hashes + np.uint64(1), _powers(min(length, len(words))), "valid")
    found ^= found >> np.uint64(29)
    return found * np.uint64(MULTIPLIER)


@cache
def _powers(length: int) -> Hashes:
    """What the words of a run are weighed with, the last word first; modulo 2**64, as all sums of hashes."""
    return np.array([pow(MULTIPLIER, place, 2**64) for place in range(length)], np.uint64)
