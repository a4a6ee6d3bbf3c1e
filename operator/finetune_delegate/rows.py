"""Prepared rows as providers read them: a conversation, and its answer or its pair of answers. Pure."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from finetune_api.reasons import Failure, Reason
from finetune_delegate.provider import Chat
from finetune_stage.rows import Row


def chat_of(row: Row) -> Chat:
    """What the model is asked."""
    fields = row.fields
    if "messages" in fields:
        return list(fields["messages"][:-1])
    return _turns(fields["prompt"])


def answer_of(row: Row) -> str:
    """The right answer."""
    fields = row.fields
    if "messages" in fields:
        return str(fields["messages"][-1].get("content") or "")
    return _text(fields["completion"] if "completion" in fields else fields["chosen"])


def turns_of(row: Row) -> Chat:
    """The whole conversation."""
    fields = row.fields
    if "messages" in fields:
        return list(fields["messages"])
    return [*_turns(fields["prompt"]), {"role": "assistant", "content": answer_of(row)}]


def pair_of(row: Row) -> tuple[str, str]:
    """The better and the worse answer of a preference."""
    return _text(row.fields["chosen"]), _text(row.fields["rejected"])


def is_pair(row: Row) -> bool:
    """Whether the row is a preference."""
    return "chosen" in row.fields


def refuse(split: str, number: int, found: str, expected: str) -> Failure:
    """A row the provider would not take."""
    return Failure(Reason.DATA_INVALID, f"{split} row {number}: found {found}, expected {expected}")


def write(rows: Iterable[Row], convert: Callable[[int, Row], dict[str, Any]], path: Path) -> int:
    """JSON lines of the converted rows; the size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for number, row in enumerate(rows, 1):
            file.write(json.dumps(convert(number, row), ensure_ascii=False).encode() + b"\n")
    return path.stat().st_size


def _turns(prompt: str | Chat) -> Chat:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _text(answer: str | Chat) -> str:
    return answer if isinstance(answer, str) else str(answer[-1].get("content") or "")
