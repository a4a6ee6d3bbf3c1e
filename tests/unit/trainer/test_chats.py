"""Prepared rows of every shape, and their answers."""

from typing import Any

import pytest

from finetune_stage.chats import answer_of, calls_tools

ASKED = [{"role": "user", "content": "a"}]
SAID = [{"role": "assistant", "content": " b "}]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "ü"}}}


@pytest.mark.parametrize(("fields", "answer"), [
    ({"messages": ASKED + SAID}, " b "),
    ({"prompt": "a", "completion": " b"}, " b"),
    ({"prompt": ASKED, "completion": SAID, "label": True}, " b "),
    ({"prompt": "a", "chosen": " b", "rejected": " c"}, " b"),
    ({"prompt": ASKED, "chosen": SAID, "rejected": ASKED}, " b "),
    ({"text": "a", "labels": ["b"]}, ""),
])  # fmt: skip
def test_the_answer_of_a_row(fields: dict[str, Any], answer: str) -> None:
    assert answer_of(fields) == answer
    assert not calls_tools(fields)


def test_the_answer_that_calls_tools() -> None:
    row = {"messages": [*ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}]}
    assert answer_of(row) == '{"name": "look", "arguments": {"at": "ü"}}'
    both = {"messages": [*ASKED, SAID[0] | {"tool_calls": [CALL, CALL]}]}
    assert answer_of(both).splitlines() == [" b ", answer_of(row), answer_of(row)]
    assert calls_tools(row)
    assert calls_tools(both)
    earlier = {"messages": [*row["messages"], {"role": "tool", "content": "c"}, *SAID]}
    assert (answer_of(earlier), calls_tools(earlier)) == (" b ", False)
