"""Prepared rows of every shape, and their answers."""

from typing import Any

import pytest

from finetune_stage.chats import answer_of

ASKED = [{"role": "user", "content": "a"}]
SAID = [{"role": "assistant", "content": " b "}]


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
