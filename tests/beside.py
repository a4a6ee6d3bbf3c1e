"""Packages that are no part of the development environment: ``make NAME`` puts them beside it, by their lock."""

import hashlib
import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator"


def folder_of(name: str) -> Path:
    """Where they are if they are there; a file ``complete`` in it says so."""
    lock = Path(__file__).parents[1] / "requirements" / f"{name}.txt"
    return CACHE / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
