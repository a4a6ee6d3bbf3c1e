"""The rows a provider is sent: its shape of them, and its documented limits. Pure.

One place for both stages: prepare goes through :func:`lines` to see that everything can be sent, the delegate writes them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.provider import OpenAIBackend, VertexBackend
from finetune_stage.chats import Unfit
from finetune_stage.openai_rows import openai_row
from finetune_stage.rows import Row
from finetune_stage.vertex_rows import vertex_row

SENT: tuple[Literal["train", "validation"], ...] = ("train", "validation")
"""Splits a provider gets; the rows of test are asked for one by one."""
LONGEST_TOKEN = 16
"""Characters; a row of more than a limit of tokens times this is too long by any tokenizer."""


@dataclass(frozen=True)
class Shape:
    """How a provider reads rows, and how many of them it takes."""

    provider: str
    row: Callable[[Row], dict[str, Any]]
    """Raises Unfit."""
    least_rows: int = 0
    """Of the training file."""
    most_rows: Mapping[str, int] = field(default_factory=dict)
    """By split."""
    most_bytes: int | None = None
    """Of a file."""
    most_tokens: int | None = None
    """Of a row."""


VERTEX = Shape(
    "Vertex AI",
    vertex_row,
    most_rows={"train": 1_000_000, "validation": 5_000},
    most_bytes=2**30,
    most_tokens=131_072,
)
OPENAI = Shape("OpenAI", openai_row, least_rows=10, most_bytes=512 * 2**20)
"""Too long a row it cuts."""
COMPATIBLE = Shape("The provider", openai_row)
"""Another service has limits of its own, and says so when it refuses a file."""


def shape_of(backend: VertexBackend | OpenAIBackend) -> Shape:
    """The shape a backend asks for."""
    if isinstance(backend, VertexBackend):
        return VERTEX
    return OPENAI if backend.base_url is None else COMPATIBLE


def lines(shape: Shape, split: str, rows: Iterable[Row]) -> Iterator[bytes]:
    """The JSON lines of a split. Raises Failure(DATA_INVALID) naming split and row, or the limit, where it is passed."""
    number = size = 0
    for number, row in enumerate(rows, 1):
        try:
            line = json.dumps(shape.row(row), ensure_ascii=False).encode() + b"\n"
            _check_length(shape, row)
        except Unfit as unfit:
            raise Failure(
                Reason.DATA_INVALID, f"{shape.provider} does not take row {number} of data/{split}.jsonl: {unfit}"
            ) from None
        size += len(line)
        yield line
    if split in SENT:
        _check_amount(shape, split, number, size)


def _check_length(shape: Shape, row: Row) -> None:
    """There is no tokenizer to count with: only what is surely too long is refused."""
    if shape.most_tokens is None:
        return
    characters = sum(len(text) for text in _texts(row.fields))
    if characters > shape.most_tokens * LONGEST_TOKEN:
        raise Unfit(f"{characters} characters", f"at most {shape.most_tokens} tokens")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _check_amount(shape: Shape, split: str, rows: int, size: int) -> None:
    most = shape.most_rows.get(split)
    if most is not None and rows > most:
        raise Failure(Reason.DATA_INVALID, f"{rows} {split} rows; {shape.provider} takes at most {most}")
    if split == "train" and rows < shape.least_rows:
        raise Failure(
            Reason.DATA_INVALID,
            f"{rows} training rows; {shape.provider} takes at least {shape.least_rows} (after the split)",
        )
    if shape.most_bytes is not None and size > shape.most_bytes:
        raise Failure(
            Reason.DATA_INVALID,
            f"the {split} rows are {size / 2**20:.0f} MiB; {shape.provider} takes files of at most {shape.most_bytes // 2**20} MiB",
        )
