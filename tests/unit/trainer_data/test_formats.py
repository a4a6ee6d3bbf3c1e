"""Rows become prepared rows, or findings that say where and what."""

from typing import Any

import pytest

from canonical_rows import broken, prepared
from finetune_api.v1alpha1.dataset import Columns
from finetune_trainer.data.formats import foreign_columns, tell


@pytest.mark.parametrize(
    ("row", "method", "format_"),
    [
        ({"messages": []}, "sft", "Messages"),
        ({"prompt": "", "completion": ""}, "sft", "PromptCompletion"),
        ({"instruction": "", "output": ""}, "sft", "Alpaca"),
        ({"text": ""}, "sft", "Text"),
        ({"text": "", "prompt": "", "completion": ""}, "sft", "PromptCompletion"),
        ({"text": "", "prompt": "", "completion": ""}, "cpt", "Text"),
        ({"conversations": []}, "sft", "ShareGPT"),
        ({"contents": []}, "grpo", "Vertex"),
        ({"chosen": "", "rejected": ""}, "dpo", "Preference"),
        ({"prompt": "", "completion": "", "label": True}, "kto", "Unpaired"),
        ({"prompt": "", "completion": "", "label": True}, "sft", "PromptCompletion"),
        ({"prompt": "", "completion": "", "label": True}, "dpo", "Unpaired"),
        ({"text": "", "label": 1}, "classification", "Classification"),
        ({"text": "", "labels": []}, "classification", "Classification"),
        ({"text": "", "label": 1}, "cpt", "Text"),
        ({"question": ""}, "sft", None),
    ],
)
def test_a_format_is_told_by_its_fields(row: dict[str, Any], method: str, format_: str | None) -> None:
    assert tell(row, Columns(), method) == format_


def test_renamed_columns_mean_prompt_and_completion_before_alpaca() -> None:
    columns = Columns(prompt="question", completion="answer")
    assert tell({"question": "", "answer": ""}, columns, "sft") == "PromptCompletion"


def test_columns_of_another_format_are_named() -> None:
    assert foreign_columns("Text", Columns(text="body")) == []
    assert foreign_columns("Text", Columns(text="body", prompt="question")) == ["prompt"]


def test_alpaca_becomes_prompt_and_completion() -> None:
    row = prepared({"instruction": "Add.", "input": "", "output": "2"}, "Alpaca")
    assert row["prompt"].endswith("### Instruction:\nAdd.\n\n### Response:\n")
    assert row["completion"] == "2"
    row = prepared({"instruction": "{Add}", "input": "1 {1}", "output": "2"}, "Alpaca")
    assert "### Instruction:\n{Add}\n\n### Input:\n1 {1}\n\n### Response:\n" in row["prompt"]


def test_other_fields_of_a_row_are_left_out() -> None:
    chat = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": None}],
        "id": 1,
    }
    assert prepared(chat, "Messages") == {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    }


@pytest.mark.parametrize(
    ("row", "format_", "field", "found"),
    [
        ({"text": None}, "Text", "text", "null"),
        ({}, "Text", "text", "nothing"),
        ({"text": "\ud800"}, "Text", "text", "half of a surrogate pair"),
        ({"prompt": "a", "completion": True}, "PromptCompletion", "completion", "a boolean"),
        ({"instruction": "a", "input": 1, "output": "b"}, "Alpaca", "input", "a number"),
        ({"messages": {}}, "Messages", "messages", "an object"),
        ({"messages": []}, "Messages", "messages", "an empty list"),
        ({"messages": ["hi"]}, "Messages", "messages[0]", "a string of 2 characters"),
        ({"messages": [{"content": "hi"}]}, "Messages", "messages[0].role", "nothing"),
        ({"messages": [{"role": "user"}]}, "Messages", "messages[0].content", "nothing"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "Messages", "messages[0].content", "a list of 1"),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [1]}]},
            "Messages",
            "messages[0].tool_calls",
            "tool calls of role user",
        ),
    ],
)
def test_a_broken_row_says_where_and_what(row: dict[str, Any], format_: str, field: str, found: str) -> None:
    assert broken(row, format_) == (field, found)


def test_labels_ignore_white_space_around_the_answer() -> None:
    labels = frozenset({"red", "blue"})
    prepared({"prompt": "a", "completion": " red\n"}, "PromptCompletion", labels)
    assert broken({"prompt": "a", "completion": "green"}, "PromptCompletion", labels)[0] == "completion"
