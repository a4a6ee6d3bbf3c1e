"""Prepared rows as Vertex AI reads them, within its documented limits. Pure but for the file it writes."""

from pathlib import Path
from typing import Any

from finetune_api.reasons import Failure, Reason
from finetune_delegate import rows as conversion
from finetune_delegate.provider import Chat
from finetune_stage.rows import Row

MAX_ROWS = 1_000_000
MAX_VALIDATION_ROWS = 5_000
MAX_FILE_BYTES = 2**30
MAX_ROW_TOKENS = 131_072
LONGEST_TOKEN = 16
"""Characters; a row of more than MAX_ROW_TOKENS times this is too long by any tokenizer."""
ROLES = {"user": "user", "assistant": "model"}


def convert(split: str, rows: list[Row], path: Path) -> None:
    """Write one split. Raises Failure(DATA_INVALID)."""
    most = MAX_ROWS if split == "train" else MAX_VALIDATION_ROWS
    if len(rows) > most:
        raise Failure(Reason.DATA_INVALID, f"{len(rows)} {split} rows; Vertex AI takes at most {most}")
    size = conversion.write(rows, lambda number, row: _checked(split, number, row), path)
    if size > MAX_FILE_BYTES:
        raise Failure(
            Reason.DATA_INVALID,
            f"the {split} rows are {size / 2**20:.0f} MiB; Vertex AI takes files of at most 1024 MiB",
        )


def _checked(split: str, number: int, row: Row) -> dict[str, Any]:
    if row.fields.get("tools"):
        raise conversion.refuse(split, number, "tools", "no tools: Vertex's declarations are not written yet")
    turns = conversion.turns_of(row)
    for turn in turns:
        role, content = turn.get("role"), turn.get("content")
        if role not in (*ROLES, "system") or turn.get("tool_calls"):
            raise conversion.refuse(split, number, f"a turn of role {role}", "system, user and assistant texts")
        if not isinstance(content, str):
            raise conversion.refuse(split, number, "a content that is no text", "texts")
    characters = sum(len(str(turn["content"])) for turn in turns)
    if characters > MAX_ROW_TOKENS * LONGEST_TOKEN:
        raise conversion.refuse(split, number, f"{characters} characters", f"at most {MAX_ROW_TOKENS} tokens")
    if not conversion.is_pair(row):
        return contents_of(turns)
    better, worse = conversion.pair_of(row)
    completions = [
        {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
        for score, text in ((1.0, better), (0.0, worse))
    ]
    return {**contents_of(conversion.chat_of(row)), "completions": completions}


def contents_of(chat: Chat) -> dict[str, Any]:
    """Turns as contents, the system's apart."""
    system = "\n\n".join(str(turn["content"]) for turn in chat if turn["role"] == "system")
    contents = [
        {"role": ROLES[turn["role"]], "parts": [{"text": turn["content"]}]} for turn in chat if turn["role"] != "system"
    ]
    instruction = {"systemInstruction": {"role": "system", "parts": [{"text": system}]}} if system else {}
    return {**instruction, "contents": contents}
