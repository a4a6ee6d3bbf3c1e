"""Rows as JSON lines, in a file or in a store."""

import json
from collections.abc import Iterable
from typing import Any

from finetune_storage import Store


def jsonl(rows: Iterable[Any]) -> bytes:
    """A line for each; a string is taken as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def stored(store: Store, name: str, rows: Iterable[Any]) -> dict[str, Any]:
    """Put them there; what a spec says of them."""
    store.put(name, jsonl(rows))
    return {"uri": store.uri(name), "secretRef": {"name": "s3"}}
