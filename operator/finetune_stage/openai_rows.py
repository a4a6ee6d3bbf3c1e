"""A prepared row as services with OpenAI's API read it: messages, or a preference's two outputs. Pure."""

import json
from typing import Any

from finetune_stage.chats import Chat, chat_of, is_pair, pair_of, turns_of
from finetune_stage.rows import Row


def openai_row(row: Row) -> dict[str, Any]:
    """A line of the file."""
    if is_pair(row):
        better, worse = pair_of(row)
        return {
            "input": {"messages": messages_of(chat_of(row))},
            "preferred_output": [{"role": "assistant", "content": better}],
            "non_preferred_output": [{"role": "assistant", "content": worse}],
        }
    tools = {"tools": row.fields["tools"]} if row.fields.get("tools") else {}
    return {"messages": messages_of(turns_of(row)), **tools}


def messages_of(chat: Chat) -> Chat:
    """Turns with every tool call named and its arguments as text, and every tool's answer naming its call."""
    made: Chat = []
    asked: list[str] = []
    for turn in chat:
        if turn.get("tool_calls"):
            calls = [_call(call, f"call_{len(made)}_{place}") for place, call in enumerate(turn["tool_calls"])]
            asked = [call["id"] for call in calls]
            turn = {**turn, "tool_calls": calls}
        elif turn["role"] == "tool":
            first = asked.pop(0) if asked else ""
            turn = {**turn, "tool_call_id": turn.get("tool_call_id") or first}
        made.append(turn)
    return made


def _call(call: dict[str, Any], name: str) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {"id": name, **call, "function": {**function, "arguments": arguments}}
