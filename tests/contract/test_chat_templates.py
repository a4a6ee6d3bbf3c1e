"""Chat templates as bases have them, with a real tokenizer: several by name, without ends of turns, that refuse rows, with a clock."""

from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_trainer.data.tokenizing import ToolCheck
from finetune_trainer.encode import encoder
from tiny_models import CHAT_TEMPLATE, tiny_tokenizer

ASKED, ANSWERED = {"role": "user", "content": "red thing 1?"}, {"role": "assistant", "content": "red"}
ROW = {"messages": [ASKED, ANSWERED]}
TOOL = {"type": "function", "function": {"name": "paint", "parameters": {"type": "object", "properties": {}}}}
WITH_TOOLS = "{% for tool in tools %}{{ tool['function']['name'] }}{% endfor %}" + CHAT_TEMPLATE


def tokenizer_with(template: Any) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


class TestNamed:
    def test_the_default_one_marks_what_is_learned(self) -> None:
        plain = encoder(tokenizer_with(CHAT_TEMPLATE), "Messages", True)
        named = encoder(tokenizer_with({"default": CHAT_TEMPLATE, "rag": "{{ documents }}"}), "Messages", True)
        assert named.training(ROW) == plain.training(ROW)
        assert named.answer(ROW) == plain.answer(ROW)

    @pytest.mark.parametrize("answers_only", [True, False])
    def test_without_a_default_one_they_are_refused(self, answers_only: bool) -> None:
        with pytest.raises(Failure, match="has no chat template named default") as caught:
            encoder(tokenizer_with({"rag": CHAT_TEMPLATE}), "Messages", answers_only)
        assert caught.value.reason is Reason.CONFIG_INVALID

    def test_tools_that_only_another_one_writes_are_refused_where_the_default_one_is_learned_by(self) -> None:
        tokenizer, row = tokenizer_with({"default": CHAT_TEMPLATE, "tool_use": WITH_TOOLS}), ROW | {"tools": [TOOL]}
        ToolCheck(tokenizer, None).check(row)
        learned = encoder(tokenizer, "Messages", True)
        with pytest.raises(Failure, match=r"tools \(paint\), and of the base model's chat templates the one") as caught:
            ToolCheck(tokenizer, learned.training_template).check(row)
        assert caught.value.reason is Reason.CONFIG_INVALID
