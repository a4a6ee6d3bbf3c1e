"""How many sequences the train stage makes of rows: the rule by which TRL packs, on lengths alone.

TRL packs a thousand rows at a time (the batch of datasets.map), in the order of the file.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from math import ceil

ROWS_AT_A_TIME = 1000


def sequence_count(lengths: Sequence[int], max_length: int, *, packing: bool, whole_text: bool) -> int:
    """Sequences of one epoch. ``whole_text`` (cpt): texts are joined and cut anew; else rows stay whole, or are cut once."""
    if not packing:
        return len(lengths)
    if whole_text:
        return sum(ceil(sum(batch) / max_length) for batch in _batches(lengths))
    return sum(_best_fit_decreasing(batch, max_length) for batch in _batches(lengths))


def _batches(lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(lengths), ROWS_AT_A_TIME):
        yield lengths[start : start + ROWS_AT_A_TIME]


def _best_fit_decreasing(lengths: Sequence[int], max_length: int) -> int:
    """Longest first, each into the fullest sequence that still has room."""
    sequences = 0
    room: list[int] = []
    for length in sorted((min(length, max_length) for length in lengths if length), reverse=True):
        place = bisect_left(room, length)
        if place < len(room):
            insort(room, room.pop(place) - length)
        else:
            sequences += 1
            insort(room, max_length - length)
    return sequences
