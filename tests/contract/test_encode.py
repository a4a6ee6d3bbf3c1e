"""Masks, with real tokenizers and templates: what is learned ends with the end token, begins with the answer, and is never empty."""

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import trl

from finetune_api.reasons import Failure, Reason
from finetune_trainer.encode import IGNORED, Example, encode_training, encoder, stop_tokens
from finetune_trainer.rewards import Answer
from finetune_trainer.text_metrics import judged
from tiny_models import tiny_tokenizer

ROW = {"prompt": "red thing 1\nColour:", "completion": " red"}
TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "red thing 1?"},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "and blue thing 2?"},
        {"role": "assistant", "content": "blue"},
    ]
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def learned(tokenizer: Any, example: Example) -> str:
    """The text of the learned tokens."""
    assert len(example.input_ids) == len(example.labels)
    assert all(label in (IGNORED, token) for token, label in zip(example.input_ids, example.labels, strict=True))
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def test_a_completion_is_learned_with_its_end(tokenizer: Any) -> None:
    example = encoder(tokenizer, "PromptCompletion", True).training(ROW)
    assert learned(tokenizer, example) == " red<|endoftext|>"
    assert tokenizer.decode(example.input_ids) == "red thing 1\nColour: red<|endoftext|>"


def test_without_the_mask_the_prompt_is_learned_too(tokenizer: Any) -> None:
    example = encoder(tokenizer, "PromptCompletion", False).training(ROW)
    assert learned(tokenizer, example) == "red thing 1\nColour: red<|endoftext|>"


def test_every_assistant_turn_is_learned_with_its_end(tokenizer: Any) -> None:
    example = encoder(tokenizer, "Messages", True).training(TALK)
    assert learned(tokenizer, example) == "red<|im_end|>blue<|im_end|>"


FAMILIES = {path.stem: path for path in Path(trl.__file__).with_name("chat_templates").glob("*.jinja")}
"""Templates of models as they are published, which TRL knows."""
BLIND = {"llava_next", "idefics3", "smolvlm"}
"""They see, and leave texts out."""
REFUSED = {"llama3_1", "llama3_2", *BLIND, *(name for name in FAMILIES if "gemma4" in name)}
"""No training template is known, the end would not be learned, or texts are left out."""
published = pytest.mark.parametrize("family", sorted(name for name in FAMILIES if not name.endswith("_training")))
TURNS = [turn for turn in TALK["messages"] if turn["role"] != "system"]  # of which some families know none


def of_family(name: str) -> tuple[Any, list[str]]:
    """A tokenizer with a family's template and the tokens it writes; these."""
    tokenizer, template = tiny_tokenizer(), FAMILIES[name].read_text()
    ends = sorted(set(re.findall(r"<[^<>\s'\"{}]{2,40}>|\[/?INST\]", template)))
    tokenizer.add_special_tokens({"additional_special_tokens": ends, "bos_token": "<|bos|>"})
    tokenizer.chat_template = template
    return tokenizer, ends


@published
def test_of_known_families_exactly_the_answers_are_learned(family: str) -> None:
    tokenizer, ends = of_family(family)
    if family in REFUSED:
        with pytest.raises(Failure, match="the base model's chat template") as caught:
            encoder(tokenizer, "Messages", True)
        assert caught.value.reason is Reason.CONFIG_INVALID
        return
    example = encoder(tokenizer, "Messages", True).training({"messages": TURNS})
    tokens = zip(example.input_ids, example.labels, strict=True)
    runs = [
        tokenizer.decode([token for token, _ in run])
        for is_learned, run in groupby(tokens, key=lambda token: token[1] != IGNORED)
        if is_learned
    ]
    assert len(runs) == 2
    for run, answer in zip(runs, ("red", "blue"), strict=True):
        assert answer in run
        assert "thing" not in run, "nothing of a question"
        assert run.rstrip("\n").endswith((*ends, tokenizer.eos_token)), "the token that ends the turn"


@published
def test_of_known_families_the_last_answer_is_measured_with_its_end_and_compared(family: str) -> None:
    tokenizer, ends = of_family(family)
    if family in BLIND:
        with pytest.raises(Failure, match="does not write messages whose content is a text"):
            encoder(tokenizer, "Messages", False)
        return
    answer = encoder(tokenizer, "Messages", family not in REFUSED).answer({"messages": TURNS})
    pairs, row = (
        encoder(tokenizer, "Preference", True),
        {"prompt": TURNS[:3], "chosen": TURNS[3:], "rejected": TURNS[1:2]},
    )
    pair = pairs.pair(row)
    assert (answer.input_ids, learned(tokenizer, answer)) == (pair.prompt + pair.chosen, tokenizer.decode(pair.chosen))
    for said, own in ((pair.chosen, "blue"), (pair.rejected, "red")):
        text = tokenizer.decode(said)
        assert own in text
        assert "thing" not in text, "nothing of a question"
        assert text.endswith((*ends, tokenizer.eos_token)), "the token that ends the turn"
    assert stop_tokens(pairs, row, None) == sorted({pair.chosen[-1], tokenizer.eos_token_id})


def test_text_is_learned_whole_with_its_end_once(tokenizer: Any) -> None:
    texts = encoder(tokenizer, "Text", False)
    assert learned(tokenizer, texts.training({"text": "red thing"})) == "red thing<|endoftext|>"
    assert learned(tokenizer, texts.training({"text": "red thing<|endoftext|>"})) == "red thing<|endoftext|>"


def test_the_evaluation_asks_what_a_server_would_be_asked(tokenizer: Any) -> None:
    chats = encoder(tokenizer, "Messages", True)
    assert tokenizer.decode(chats.prompt(TALK)).endswith("and blue thing 2?<|im_end|>\n<|im_start|>assistant\n")
    assert learned(tokenizer, chats.answer(TALK)) == "blue<|im_end|>"
    assert chats.reference(TALK) == "blue"
    single = {"messages": TALK["messages"][1:3]}
    assert chats.training(single).labels[: len(chats.answer(single).labels)] == chats.answer(single).labels


def test_the_reference_is_what_a_model_that_learned_the_row_writes() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = FAMILIES["qwen3"].read_text()
    chats = encoder(tokenizer, "Messages", True)
    assert chats.reference(TALK) == "<think>\n\n</think>\n\nblue"
    call = {"type": "function", "function": {"name": "paint", "arguments": {"colour": "red"}}}
    row = {"messages": [*TALK["messages"][:-1], {"role": "assistant", "content": "", "tool_calls": [call]}]}
    written = '<tool_call>\n{"name": "paint", "arguments": {"colour": "red"}}\n</tool_call>'
    assert chats.reference(row) == f"<think>\n\n</think>\n\n{written}"
    for text, is_right in ((chats.reference(row), True), ("", False)):
        assert judged(Answer(text, chats.reference(row), [], []), ["ExactMatch"], None)["exact"] is is_right
    assert encoder(tokenizer, "PromptCompletion", True).reference(ROW) == " red", "texts are as they are"


def test_the_vocabulary_is_not_looked_through_again_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    chats = encoder(tokenizer, "Messages", True)
    monkeypatch.delattr(type(tokenizer), "get_added_vocab")
    assert learned(tokenizer, chats.answer(TALK)) == "blue<|im_end|>"


def test_another_answer_stands_where_the_own_one_stood(tokenizer: Any) -> None:
    rows, chats = encoder(tokenizer, "PromptCompletion", True), encoder(tokenizer, "Messages", True)
    assert rows.with_answer(ROW, "blue") == ROW | {"completion": " blue"}
    assert learned(tokenizer, chats.answer(chats.with_answer(TALK, "green"))) == "green<|im_end|>"
    assert TALK["messages"][-1]["content"] == "blue", "the row itself is unchanged"


def test_tokenizers_that_add_a_first_token_add_it_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    rows, chats = encoder(tokenizer, "PromptCompletion", True), encoder(tokenizer, "Messages", True)
    assert rows.training(ROW).input_ids.count(start) == 1
    assert rows.prompt(ROW)[0] == start
    assert chats.training(TALK).input_ids.count(start) == 5, "the template writes its own"


def test_rows_without_a_learned_token_are_left_out_and_said(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = encoder(tokenizer, "PromptCompletion", True)
    fitting = len(rows.training(ROW).input_ids)
    long = {"prompt": "thing " * 100, "completion": " red"}
    assert len(list(encode_training(rows, [ROW, long], fitting, packed=False))) == 1
    assert "1 training rows left out" in capsys.readouterr().out
    with pytest.raises(Failure, match="none of the 1 training rows") as caught:
        list(encode_training(rows, [long], fitting, packed=True))
    assert caught.value.reason is Reason.DATA_INVALID


def test_packed_text_loses_nothing(tokenizer: Any) -> None:
    texts = encoder(tokenizer, "Text", False)
    assert len(list(encode_training(texts, [{"text": ""}, {"text": "red"}], 8, packed=True))) == 2


def test_answers_stop_at_every_end_token_of_model_tokenizer_and_data(tokenizer: Any) -> None:
    end, turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")
    chats, rows = encoder(tokenizer, "Messages", True), encoder(tokenizer, "PromptCompletion", True)
    assert stop_tokens(chats, TALK, None) == sorted({end, turn})
    assert stop_tokens(rows, ROW, [7, end]) == sorted({7, end})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{% for message in messages %}{{ message['content'] }}{% endfor %}", "does not mark assistant turns"),
        (
            "{% for message in messages %}{% generation %}{{ message['content'] }}{% endgeneration %}<|im_end|>{% endfor %}",
            "would never stop",
        ),
    ],
)
def test_templates_that_cannot_teach_are_refused(template: str | None, message: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(Failure, match=message) as caught:
        encoder(tokenizer, "Messages", True)
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_an_end_that_is_also_the_padding_is_learned(tokenizer: Any) -> None:
    """Many bases pad with their end token: batches are masked by length, never by the token."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = encoder(tokenizer, "PromptCompletion", True)
    examples = [rows.training(ROW), rows.training({"prompt": "thing " * 9, "completion": " red"})]
    batch = DataCollatorForLanguageModeling(pad_token_id=tokenizer.eos_token_id)([each._asdict() for each in examples])
    for example, ids, labels, mask in zip(
        examples, *(batch[name].tolist() for name in ("input_ids", "labels", "attention_mask")), strict=True
    ):
        length = len(example.input_ids)
        assert example.labels[-1] == tokenizer.eos_token_id
        assert (ids[:length], labels[:length]) == (example.input_ids, example.labels)
        assert set(labels[length:]) <= {IGNORED}
        assert mask == [1] * length + [0] * (len(mask) - length)
