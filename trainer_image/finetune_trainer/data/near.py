"""Near duplicates by MinHash: rows that share at least four fifths of their runs of five words.

A signature is 256 bytes a row, so that a million rows take 256 MB; tables of Python objects, as libraries keep them for
look-ups one at a time, take twenty times that. All rows are known at the end, so bands are sorted instead.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.words import runs

RUN = 5
SHARED = 0.8
"""Jaccard similarity; estimated with a standard error of 0.035."""
HASHES = 128
BANDS = 16
AT_A_TIME = 4096

_KEYS = np.frombuffer(hashlib.shake_128(b"near duplicates").digest(16 * HASHES), np.uint64)
_FACTORS, _SUMMANDS = _KEYS[:HASHES] | np.uint64(1), _KEYS[HASHES:]

Signatures = npt.NDArray[np.uint16]
"""(rows, HASHES)."""


def signature(text: str) -> bytes:
    """The smallest hash of the text's runs, for each of HASHES hash functions; of each the lower half is kept."""
    shingles = runs(text, RUN, whole=True)
    if not len(shingles):  # signs and pictures only: near nothing but the same again
        shingles = np.frombuffer(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), np.uint64
        )
    least = np.full(HASHES, 2**32 - 1, np.uint64)
    for start in range(0, len(shingles), AT_A_TIME):
        hashed = (shingles[start : start + AT_A_TIME, None] * _FACTORS + _SUMMANDS) >> np.uint64(32)
        least = np.minimum(least, hashed.min(axis=0))
    return least.astype(np.uint16).tobytes()


def near_duplicates(signatures: Signatures) -> npt.NDArray[np.bool_]:
    """Which rows are near an earlier one, or near one that is; the first of each such group is not."""
    first = np.arange(len(signatures))
    for band in np.split(signatures, BANDS, axis=1):
        for one, other in _alike(signatures, band):
            _join(first, int(one), int(other))
    return np.array([_root(first, row) != row for row in range(len(first))], np.bool_)


def _alike(signatures: Signatures, band: Signatures) -> npt.NDArray[np.int64]:
    """Pairs of rows whose band is the same, and that are near each other; each row with the first of its band."""
    halves = np.ascontiguousarray(band).view(np.uint64)
    keys = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ (halves[:, 1] + (halves[:, 0] >> np.uint64(7)))
    order = np.argsort(keys, kind="stable")
    begins = np.concatenate(([True], keys[order][1:] != keys[order][:-1]))
    firsts = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    pairs = np.stack((firsts, order), axis=1)[~begins]
    near = [
        (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1) >= SHARED
        for part in (pairs[start : start + AT_A_TIME] for start in range(0, len(pairs), AT_A_TIME))
    ]
    return pairs[np.concatenate(near)] if near else pairs


def _join(first: npt.NDArray[np.int64], one: int, other: int) -> None:
    roots = sorted((_root(first, one), _root(first, other)))
    first[roots[1]] = roots[0]


def _root(first: npt.NDArray[np.int64], row: int) -> int:
    while first[row] != row:
        first[row] = first[first[row]]
        row = int(first[row])
    return row
