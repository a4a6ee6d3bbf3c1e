"""Prepared rows as conversations with an answer, or with a pair of answers: what providers are sent and asked. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from finetune_stage.rows import Row

Chat = list[dict[str, Any]]
"""Messages with role and content."""


class Unfit(Exception):
    """A row a provider does not take: what was found, what is expected."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")


def chat_of(row: Row) -> Chat:
    """What the model is asked; the last message is the user's."""
    fields = row.fields
    if "messages" in fields:
        return list(fields["messages"][:-1])
    return _turns(fields["prompt"])


def answer_of(fields: Mapping[str, Any]) -> str:
    """The right answer of a prepared row, of a preference the better one, its tool calls as JSON; empty where its format has none."""
    if "messages" in fields:
        return _text(fields["messages"])
    return _text(fields.get("completion", fields.get("chosen", "")))


def calls_tools(fields: Mapping[str, Any]) -> bool:
    """Whether the answer of a conversation is a call of tools, with or without words."""
    return bool(fields.get("messages", [{}])[-1].get("tool_calls"))


def turns_of(row: Row) -> Chat:
    """The whole conversation."""
    fields = row.fields
    if "messages" in fields:
        return list(fields["messages"])
    return [*_turns(fields["prompt"]), {"role": "assistant", "content": answer_of(fields)}]


def pair_of(row: Row) -> tuple[str, str]:
    """The better and the worse answer of a preference. Raises Unfit: a provider takes one text each."""
    for side in ("chosen", "rejected"):
        answer = row.fields[side]
        if not isinstance(answer, str) and (len(answer) > 1 or answer[-1].get("tool_calls")):
            raise Unfit(f"{side} with {'tool calls' if len(answer) == 1 else f'{len(answer)} messages'}", "one text")
    return _text(row.fields["chosen"]), _text(row.fields["rejected"])


def is_pair(row: Row) -> bool:
    """Whether the row is a preference."""
    return "chosen" in row.fields


def _turns(prompt: str | Chat) -> Chat:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _text(answer: str | Chat) -> str:
    if isinstance(answer, str):
        return answer
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in answer[-1].get("tool_calls", ())]
    return "\n".join(filter(None, [str(answer[-1].get("content") or ""), *calls]))
