"""General rows among the training rows (dataset.mix): in which order they are drawn, and where they stand.

Both are functions of the rows and the seed alone, so that a second attempt prepares the same bytes.
"""

import hashlib
from array import array
from collections.abc import Iterator
from itertools import islice
from math import floor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune_api.reasons import Failure, Reason


class Mixing(NamedTuple):
    """How much of the training is general text."""

    share: float
    """Of the training tokens."""
    seed: int

    def tokens(self, own: int) -> int:
        """General tokens that go with so many of the dataset's own."""
        return round(self.share / (1 - self.share) * own)


def drawn(path: Path, seed: int) -> Iterator[bytes]:
    """A file's lines in a seeded order that does not depend on their own; 16 bytes of memory a line."""
    keys, offsets = array("Q"), array("Q")
    with path.open("rb") as file:
        offset = 0
        for line in file:
            keys.append(int.from_bytes(hashlib.sha256(b"%d:%s" % (seed, line)).digest()[:8]))
            offsets.append(offset)
            offset += len(line)
        for place in np.argsort(np.asarray(keys), kind="stable"):
            file.seek(offsets[place])
            yield file.readline()


def too_few(mixing: Mixing, own: int, general: int) -> Failure:
    """The general rows do not make up their share; none is repeated for it."""
    possible = floor(1000 * general / (own + general)) / 1000
    return Failure(
        Reason.DATA_INVALID,
        f"dataset.mix: a share of {mixing.share:g} beside {own:,} tokens of the dataset's own takes {mixing.tokens(own):,} general "
        f"ones, and the rows of dataset.mix.source have {general:,}; add files to it, or set a share of at most {possible:g}",
    )


def merged(own: int, general: int) -> Iterator[tuple[bool, int]]:
    """Where rows stand among each other, evenly: whether the next is a general one, and its place among its kind."""
    others = iter(range(general))
    for place in range(own):
        yield False, place
        due = general * (place + 1) // own - general * place // own
        yield from ((True, other) for other in islice(others, due))
