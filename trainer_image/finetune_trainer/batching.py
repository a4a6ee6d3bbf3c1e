"""Rows of like length together, padded to one tensor."""

from collections.abc import Iterator
from typing import Any

import torch

BATCH_TOKENS = {"cpu": 4_096, "cuda": 16_384}


def batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Places of rows of like length, each batch of at most ``budget`` padded tokens (or one row)."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and lengths[place] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def padded(rows: list[list[int]], value: int, device: Any, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows as one tensor, and the mask of what is not padding (by length: a pad id may be a real token)."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for place, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids[place, span] = torch.tensor(row)
        mask[place, span] = 1
    return ids.to(device), mask.to(device)
