"""Rows in a provider's shape, and its limits."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.provider import OpenAIBackend, VertexBackend
from finetune_stage.provider_rows import COMPATIBLE, OPENAI, VERTEX, Shape, lines, shape_of
from finetune_stage.rows import Row

SECRET: Any = {"name": "key"}
SAID: dict[str, Any] = {"role": "assistant", "content": "c"}
CALL = {
    **SAID,
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "ü"}}}],
}
TOLD = {"role": "tool", "content": "b"}
PAIR = {"prompt": [{"role": "user", "content": "a"}], "chosen": [SAID], "rejected": [SAID]}


def some_rows(number: int, **fields: Any) -> list[Row]:
    return [Row(str(each), {"prompt": "a", "completion": "b", **fields}) for each in range(number)]


@pytest.mark.parametrize(("shape", "split", "rows", "says"), [
    (VERTEX, "train", some_rows(1, prompt="x" * 2_097_152), "row 1 of data/train.jsonl: found 2097153 characters, expected at most 131072 tokens"),
    (VERTEX, "test", some_rows(1, tools=[{}]), "row 1 of data/test.jsonl: found tools"),
    (VERTEX, "validation", some_rows(5001), "5001 validation rows; Vertex AI takes at most 5000"),
    (replace(VERTEX, most_bytes=2**20), "train", some_rows(2, prompt="x" * 2**19), "the train rows are 1 MiB"),
    (VERTEX, "train", [Row("a", PAIR | {"chosen": [CALL]})], "row 1 of data/train.jsonl: found chosen with tool calls, expected one text"),
    (COMPATIBLE, "train", [Row("a", PAIR | {"rejected": [CALL, TOLD, SAID]})], "found rejected with 3 messages, expected one text"),
    (OPENAI, "train", some_rows(9), "9 training rows; OpenAI takes at least 10 (after the split)"),
])  # fmt: skip
def test_a_limit_is_told(shape: Shape, split: str, rows: list[Row], says: str) -> None:
    with pytest.raises(Failure) as raised:
        list(lines(shape, split, rows))
    assert raised.value.reason is Reason.DATA_INVALID
    assert says in raised.value.message


def test_held_out_rows_are_not_counted() -> None:
    assert len(list(lines(replace(VERTEX, most_rows={"validation": 1}), "test", some_rows(2)))) == 2
    assert len(list(lines(OPENAI, "test", some_rows(2)))) == 2


def test_only_openai_itself_has_openais_limits() -> None:
    assert shape_of(OpenAIBackend(secret_ref=SECRET)) is OPENAI
    assert shape_of(OpenAIBackend(secret_ref=SECRET, base_url="http://here/v1")) is COMPATIBLE
    assert shape_of(VertexBackend(project="p", location="l", staging_uri="gs://b")) is VERTEX


def test_openai_gets_calls_with_names_and_arguments_as_text() -> None:
    chat = [*PAIR["prompt"], CALL, TOLD, SAID]
    made = OPENAI.row(Row("1", {"messages": chat}))["messages"]
    assert made[1]["tool_calls"] == [
        {"id": "call_1_0", "type": "function", "function": {"name": "look", "arguments": '{"at": "ü"}'}}
    ]
    assert made[2]["tool_call_id"] == "call_1_0"
    assert chat[2] == TOLD == {"role": "tool", "content": "b"}
