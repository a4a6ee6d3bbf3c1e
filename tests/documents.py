"""YAML and JSON of examples and docs, compared with what the models keep of them."""

from collections.abc import Iterator
from typing import Any


def dropped(asked: Any, kept: Any, path: str = "") -> list[str]:
    """Paths of the fields a model does not know, or reads as something else."""
    return list(_dropped(asked, kept, path))


def _dropped(asked: Any, kept: Any, path: str) -> Iterator[str]:
    if isinstance(asked, dict) and isinstance(kept, dict):
        for name, value in asked.items():
            yield from _dropped(value, kept.get(name), f"{path}.{name}")
    elif isinstance(asked, list) and isinstance(kept, list) and len(asked) == len(kept):
        for number, (value, other) in enumerate(zip(asked, kept, strict=True)):
            yield from _dropped(value, other, f"{path}[{number}]")
    elif asked != kept:
        yield path
