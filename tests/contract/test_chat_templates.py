"""Chat templates as bases have them, with a real tokenizer: several by name, without ends of turns, that refuse rows, with a clock."""

import hashlib
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl
from transformers import LlamaForCausalLM

from finetune_api.artifacts import PreparedSuite
from finetune_api.reasons import Failure, Reason
from finetune_stage.outcome import Places
from finetune_stage.rows import Row
from finetune_storage import Store
from finetune_trainer import recipe, suites
from finetune_trainer.chat_template import Refused
from finetune_trainer.data.tokenizing import ToolCheck
from finetune_trainer.encode import IGNORED, encoder, stop_tokens
from finetune_trainer.world import World
from json_lines import jsonl
from prepare_stage import CHAT, Prepare, resolved_of
from tiny_models import CHAT_TEMPLATE, tiny_tokenizer

ASKED, ANSWERED = {"role": "user", "content": "red thing 1?"}, {"role": "assistant", "content": "red"}
ROW = {"messages": [ASKED, ANSWERED]}
TOOL = {"type": "function", "function": {"name": "paint", "parameters": {"type": "object", "properties": {}}}}
PAINT = {"name": "paint", "arguments": {"colour": "red"}}
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


class TestRefusing:
    def test_rows_are_refused_with_the_words_of_the_template(self) -> None:
        refusing = "{% for m in messages if m['role'] == 'tool' %}{{ raise_exception('no tools:\\n' + m['role']) }}{% endfor %}"
        chats = encoder(tokenizer_with(refusing + CHAT_TEMPLATE), "Messages", True)
        row = {"messages": [ASKED, ANSWERED, {"role": "tool", "content": "1"}, ANSWERED]}
        for encode in (chats.training, chats.answer, chats.prompt):
            with pytest.raises(Refused, match=r"refuses a row's messages \(no tools:\)") as caught:
                encode(row)
            assert caught.value.reason is Reason.DATA_INVALID

    def test_a_template_that_a_plain_conversation_breaks_is_the_bases_fault(self) -> None:
        with pytest.raises(
            Failure, match=r"content is a text \('begin' is undefined\); use rows of plain texts"
        ) as caught:
            encoder(tokenizer_with("{{ begin + 'a' }}" + CHAT_TEMPLATE), "Messages", False)
        assert caught.value.reason is Reason.CONFIG_INVALID

    def test_tool_calls_that_only_the_training_template_writes_are_refused(self) -> None:
        calls = [{"type": "function", "function": PAINT}]
        row = {"messages": [ASKED, {**ANSWERED, "tool_calls": calls}]}
        arguments = "{{ 'paint' + messages[1]['tool_calls'][0]['function']['arguments'] }}"  # expects a text
        with pytest.raises(
            Failure, match=r"tool_calls \(paint\), and the base model's chat template does not write them"
        ):
            ToolCheck(tokenizer_with(arguments), "{{ 'paint' }}").check(row)


class TestWithClock:
    DAY = date(2026, 1, 31)
    TEMPLATE = "{{ strftime_now('%d %b %Y %H:%M') + '\\n' }}" + CHAT_TEMPLATE

    def resolved(self, **members: Any) -> Any:
        training = {
            "assistant_only_loss": True,
            "evaluate_every_steps": None,
            "max_length": 48,
            "packing": False,
            "seed": 1,
        }
        adapter = SimpleNamespace(new_tokens=[], virtual_tokens=0)
        members = {"method": "sft", "format": "Messages", "adapter": adapter, "day": self.DAY} | members
        return SimpleNamespace(**members, training=SimpleNamespace(**training))

    def test_every_attempt_tells_the_template_the_day_of_the_prepare_stage(
        self, tmp_path: Path, tiny_llama: Path
    ) -> None:
        tokenizer = tokenizer_with(self.TEMPLATE)
        model = LlamaForCausalLM.from_pretrained(tiny_llama)
        base: Any = SimpleNamespace(tokenizer=tokenizer, model=model, writes=True)
        data = jsonl([ROW])
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "suite.jsonl").write_bytes(data)
        suite = PreparedSuite(
            name="exam",
            file="data/suite.jsonl",
            sha256=hashlib.sha256(data).hexdigest(),
            rows=1,
            format="Messages",
            metrics=["Loss"],
            max_new_tokens=8,
        )
        inputs: Any = SimpleNamespace(
            resolved=self.resolved(suites=[suite]),
            splits={"train": [Row("1", ROW)]},
            places=Places(work_dir=tmp_path),
            store=None,
        )
        chats, dataset, _, _ = recipe._material(inputs, base, World())
        asked = suites.exams(inputs, base)["exam"].encoder
        for ids in (dataset[0]["input_ids"], chats.answer(ROW).input_ids, chats.prompt(ROW), asked.prompt(ROW)):
            assert tokenizer.decode(ids).startswith("31 Jan 2026 00:00\n")

    def test_the_day_is_kept_where_the_template_asks_for_it(self, prepare: Prepare, store: Store) -> None:
        store.put("base/chat_template.jinja", self.TEMPLATE.encode())
        before = datetime.now(UTC).date()
        assert prepare([CHAT]).prepared
        day = resolved_of(store).day
        assert day is not None
        assert before <= day <= datetime.now(UTC).date()
        assert day.strftime("%d %b %Y") in store.get("out/team-a/job/uid-1/data/preview.txt").decode().replace("|", "")
        store.put("base/chat_template.jinja", CHAT_TEMPLATE.encode())
        assert prepare([CHAT]).prepared
        assert resolved_of(store).day is None


class TestWithoutEnds:
    """As those of GLM-4: only the next turn shows that one is over."""

    TURNS = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    LINES = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    ASKING = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"

    def test_an_answer_ends_with_what_begins_the_next_turn(self) -> None:
        tokenizer = tokenizer_with(self.TURNS + self.ASKING)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
        chats = encoder(tokenizer, "Messages", False)
        answer = chats.answer(ROW)
        assert tokenizer.decode([token for token in answer.labels if token != IGNORED]) == "red<|user|>"
        assert chats.training(ROW).input_ids == answer.input_ids, "what is measured is learned"
        assert tokenizer.convert_ids_to_tokens(stop_tokens(chats, ROW, None)) == ["<|endoftext|>", "<|user|>"]

    def test_or_with_the_end_token_where_turns_are_plain_text(self) -> None:
        tokenizer = tokenizer_with(self.LINES)
        chats = encoder(tokenizer, "Messages", False)
        assert tokenizer.decode(chats.answer(ROW).input_ids).endswith("assistant: red\n<|endoftext|>")
        assert chats.training(ROW).input_ids == chats.answer(ROW).input_ids

    def test_a_run_of_spaces_is_no_end(self) -> None:
        tokenizer = tokenizer_with(self.LINES.replace("\n", "   "))
        tokenizer.add_tokens(["   "])
        chats = encoder(tokenizer, "Messages", False)
        assert tokenizer.decode(chats.answer(ROW).input_ids).endswith("red   <|endoftext|>")

    def test_as_the_template_that_marks_answers_has_it(self) -> None:
        tokenizer = tokenizer_with(Path(trl.__file__).with_name("chat_templates").joinpath("glm4moe.jinja").read_text())
        markers = ["<|user|>", "<|assistant|>", "<|observation|>", "</think>", "</tool_call>"]
        tokenizer.add_special_tokens({"additional_special_tokens": markers})
        chats, calls = encoder(tokenizer, "Messages", True), [{"type": "function", "function": PAINT}]
        for said, end in ((ANSWERED, "<|user|>"), ({**ANSWERED, "tool_calls": calls}, "<|observation|>")):
            row = {"messages": [ASKED, said], "tools": [TOOL]}
            for example in (chats.answer(row), chats.training(row)):
                text = tokenizer.decode([token for token in example.labels if token != IGNORED])
                assert text.strip().endswith(end)
                assert "red" in text
