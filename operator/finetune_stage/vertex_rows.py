"""A prepared row as Vertex AI reads it: contents and systemInstruction, or a preference's completions. Pure."""

from typing import Any

from finetune_stage.chats import Chat, Unfit, chat_of, is_pair, pair_of, turns_of
from finetune_stage.rows import Row

ROLES = {"user": "user", "assistant": "model"}


def vertex_row(row: Row) -> dict[str, Any]:
    """A line of the file. Raises Unfit."""
    if row.fields.get("tools"):
        raise Unfit("tools", "no tools: Vertex's declarations are not written yet")
    turns = turns_of(row)
    for turn in turns:
        role, content = turn.get("role"), turn.get("content")
        if role not in (*ROLES, "system") or turn.get("tool_calls"):
            raise Unfit(f"a turn of role {role}", "system, user and assistant texts")
        if not isinstance(content, str):
            raise Unfit("a content that is no text", "texts")
    if not is_pair(row):
        return contents_of(turns)
    completions = [
        {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
        for score, text in zip((1.0, 0.0), pair_of(row), strict=True)
    ]
    return {**contents_of(chat_of(row)), "completions": completions}


def contents_of(chat: Chat) -> dict[str, Any]:
    """Turns as contents, the system's apart."""
    system = "\n\n".join(str(turn["content"]) for turn in chat if turn["role"] == "system")
    contents = [
        {"role": ROLES[turn["role"]], "parts": [{"text": turn["content"]}]} for turn in chat if turn["role"] != "system"
    ]
    instruction = {"systemInstruction": {"role": "system", "parts": [{"text": system}]}} if system else {}
    return {**instruction, "contents": contents}
