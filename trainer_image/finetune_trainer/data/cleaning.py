"""Duplicates and leaks: each row is kept once, in the split that is held out the most; and the seeded cut into splits."""

import hashlib
import json
import unicodedata
from typing import Any

from finetune_api.v1alpha1.dataset import Split
from finetune_trainer.data.sources import SplitName


def row_digest(row: dict[str, Any]) -> bytes:
    """Equal for rows that differ only in Unicode form, line ends or white space around their texts."""
    normal = json.dumps(_normal(row), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(normal.encode()).digest()[:16]


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value).replace("\r\n", "\n").strip()
    if isinstance(value, list):
        return [_normal(item) for item in value]
    return {key: _normal(item) for key, item in value.items()} if isinstance(value, dict) else value


def cut(digests: set[bytes], split: Split, seed: int) -> dict[bytes, SplitName]:
    """The digests that are held out, each with the name of its split.

    The order is that of a seeded hash, which is the same on every machine and whatever the order of the rows; copies of
    a row fall into the same split.
    """
    order = sorted(digests, key=lambda digest: hashlib.sha256(b"%d:%s" % (seed, digest)).digest())
    tests = _share(len(order), split.test)
    validations = _share(len(order), split.validation)
    held_out: dict[bytes, SplitName] = dict.fromkeys(order[:tests], "test")
    return held_out | dict.fromkeys(order[tests : tests + validations], "validation")


def _share(rows: int, fraction: float | None) -> int:
    """At least one row where a share was asked for."""
    return max(1, round(rows * fraction)) if fraction else 0
