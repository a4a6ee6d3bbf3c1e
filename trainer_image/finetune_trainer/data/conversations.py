"""Rows of conversations, in three shapes, brought into one: messages with role and content, and tools where there are any.

Tool calls are kept in OpenAI's shape, with one difference that chat templates ask for: ``arguments`` is an object.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.fields import Row, entries, storable, text, unpacked
from finetune_trainer.data.findings import Broken, describe

ROLES = ("system", "user", "assistant", "tool")
KEPT = ("role", "content", "tool_calls", "tool_call_id", "name")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""ShareGPT's own words, and those of the datasets that came after it."""
VERTEX_ROLES = {"user": "user", "model": "assistant"}


def messages_row(row: Row, names: Mapping[str, str]) -> tuple[Row, str, str]:
    """{"messages", "tools"} -> the same, checked; its answer and the answer's field."""
    field = names["messages"]
    return _with_tools(row, answered(conversation(entries(row, field, "a list of messages"), field), field))


def sharegpt_row(row: Row, names: Mapping[str, str]) -> tuple[Row, str, str]:
    """{"conversations": [{"from", "value"}], "system", "tools"} -> messages."""
    field = names["conversations"]
    turns = entries(row, field, "a list of turns, each with from and value")
    messages = [_sharegpt_turn(turn, f"{field}[{place}]") for place, turn in enumerate(turns)]
    if row.get("system"):
        messages = [{"role": "system", "content": text(row, "system")}, *messages]
    return _with_tools(row, answered(conversation(messages, field), field))


def vertex_row(row: Row, names: Mapping[str, str]) -> tuple[Row, str, str]:
    """{"systemInstruction": {"parts"}, "contents": [{"role", "parts"}]} -> messages."""
    field = names["contents"]
    messages = []
    for place, content in enumerate(entries(row, field, "a list of contents, each with role and parts")):
        where = f"{field}[{place}]"
        if not isinstance(content, dict):
            raise Broken(where, describe(content), "an object with role and parts")
        role = _role(content.get("role"), f"{where}.role", VERTEX_ROLES)
        messages.append({"role": role, "content": _parts(content, where)})
    if row.get("systemInstruction"):
        if not isinstance(row["systemInstruction"], dict):
            raise Broken("systemInstruction", describe(row["systemInstruction"]), "an object with parts")
        messages = [{"role": "system", "content": _parts(row["systemInstruction"], "systemInstruction")}, *messages]
    if row.get("tools"):
        raise Broken("tools", describe(row["tools"]), "no tools: Vertex's are not understood; use format Messages")
    return answered(conversation(messages, field), field)


def conversation(messages: list[Any], field: str, after: Sequence[Row] = ()) -> list[Row]:
    """Messages in their prepared form, roles in an order that chat templates know; ``after`` was said before."""
    said = list(after)
    for place, message in enumerate(messages):
        said.append(_message(message, f"{field}[{place}]", _next_roles(said)))
    return said[len(after) :]


def answered(messages: list[Row], field: str) -> tuple[Row, str, str]:
    """The prepared row of a conversation that ends with an answer."""
    last, where = messages[-1], f"{field}[{len(messages) - 1}]"
    if last["role"] != "assistant":
        raise Broken(f"{where}.role", last["role"], "assistant: the last message is the answer")
    return {"messages": messages}, last["content"], f"{where}.content"


def _with_tools(row: Row, found: tuple[Row, str, str]) -> tuple[Row, str, str]:
    prepared, answer, field = found
    if not row.get("tools"):
        return found
    tools = unpacked(row["tools"], "tools", "a list of tools")
    if not isinstance(tools, list):
        raise Broken("tools", describe(tools), "a list of tools")
    return prepared | {"tools": [_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]}, answer, field


def _tool(tool: Any, where: str) -> Row:
    if isinstance(tool, dict) and "function" not in tool and isinstance(tool.get("name"), str):
        tool = {"type": "function", "function": tool}
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        raise Broken(where, describe(tool), 'an object {"type": "function", "function": {"name", "parameters"}}')
    text(function, "name", f"{where}.function.name")
    return {"type": "function", "function": _storable(function, f"{where}.function")}


def _message(message: Any, where: str, allowed: tuple[str, ...]) -> Row:
    if not isinstance(message, dict):
        raise Broken(where, describe(message), "an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        found = "nothing" if "role" not in message else describe(role)
        raise Broken(f"{where}.role", found, f"one of {', '.join(ROLES)}")
    if role not in allowed:
        raise Broken(f"{where}.role", role, " or ".join(allowed))
    unsupported = sorted(key for key in message if key not in KEPT and message[key])
    if unsupported:
        raise Broken(f"{where}.{unsupported[0][:40]}", describe(message[unsupported[0]]), f"only {', '.join(KEPT)}")
    if message.get("tool_calls"):
        return _calling(message, where)
    kept = {key: text(message, key, f"{where}.{key}") for key in ("tool_call_id", "name") if message.get(key)}
    return {"role": role, "content": text(message, "content", f"{where}.content")} | (kept if role == "tool" else {})


def _calling(message: Row, where: str) -> Row:
    """An assistant's message that calls tools; it may say something, too."""
    if message["role"] != "assistant":
        raise Broken(f"{where}.tool_calls", f"tool calls of role {message['role']}", "tool calls of the assistant only")
    calls = unpacked(message["tool_calls"], f"{where}.tool_calls", "a list of tool calls")
    if not isinstance(calls, list):
        raise Broken(f"{where}.tool_calls", describe(calls), "a list of tool calls")
    said = text(message, "content", f"{where}.content") if message.get("content") else ""
    checked = [_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(calls)]
    return {"role": "assistant", "content": said, "tool_calls": checked}


def _call(call: Any, where: str) -> Row:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise Broken(where, describe(call), 'an object {"type": "function", "function": {"name", "arguments"}}')
    name = text(function, "name", f"{where}.function.name")
    arguments = unpacked(function.get("arguments") or {}, f"{where}.function.arguments", "an object, or one as JSON")
    if not isinstance(arguments, dict):
        raise Broken(f"{where}.function.arguments", describe(arguments), "an object, or one as JSON")
    checked = {"name": name, "arguments": _storable(arguments, f"{where}.function.arguments")}
    identity = {"id": text(call, "id", f"{where}.id")} if call.get("id") else {}
    return identity | {"type": "function", "function": checked}


def _storable(value: Row, where: str) -> Row:
    storable(json.dumps(value, ensure_ascii=False), where)
    return value


def _next_roles(before: list[Row]) -> tuple[str, ...]:
    """A system message may come first; then user and assistant take turns, with tools' answers after their calls."""
    if not before:
        return ("system", "user")
    last = before[-1]
    if last["role"] == "tool":
        return ("tool", "assistant")
    if "tool_calls" in last:
        return ("tool",)
    return ("assistant",) if last["role"] == "user" else ("user",)


def _sharegpt_turn(turn: Any, where: str) -> Row:
    if not isinstance(turn, dict):
        raise Broken(where, describe(turn), "an object with from and value")
    role = _role(turn.get("from"), f"{where}.from", SHAREGPT_ROLES)
    value = text(turn, "value", f"{where}.value")
    if turn["from"] != "function_call":
        return {"role": role, "content": value}
    call = unpacked(value, f"{where}.value", "a function call as JSON")
    calls = call if isinstance(call, list) else [call]
    return {"role": role, "content": "", "tool_calls": [{"type": "function", "function": each} for each in calls]}


def _role(role: Any, where: str, known: Mapping[str, str]) -> str:
    if not isinstance(role, str) or role not in known:
        raise Broken(where, describe(role) if role is not None else "nothing", f"one of {', '.join(known)}")
    return known[role]


def _parts(content: Row, where: str) -> str:
    """The text of a Vertex content, whose parts belong together."""
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise Broken(f"{where}.parts", describe(parts) if "parts" in content else "nothing", "a list of text parts")
    texts = []
    for place, part in enumerate(parts):
        if not isinstance(part, dict) or set(part) != {"text"}:
            found = f"a part of {', '.join(sorted(map(str, part)))[:40]}" if isinstance(part, dict) else describe(part)
            raise Broken(f"{where}.parts[{place}]", found or "an empty object", 'only text: {"text": "…"}')
        texts.append(text(part, "text", f"{where}.parts[{place}].text"))
    return "".join(texts)
