"""Rows that say which answer is better: two answers to one prompt, or one answer with a verdict.

Both sides are texts, or both are messages. A prompt that is not stated is the beginning both sides share.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_trainer.data.conversations import conversation
from finetune_trainer.data.fields import Row, entries, present, text, truth
from finetune_trainer.data.findings import Broken, describe

DIALOGUE_TURN = "\n\nAssistant:"
"""Where the answer begins in dialogues written as one text, as in Anthropic's hh-rlhf."""
SHARED = "a prompt, or two conversations that begin alike"


def preference_row(row: Row, names: Mapping[str, str]) -> Row:
    """{"prompt", "chosen", "rejected"}, or {"chosen", "rejected"} with a shared beginning -> the first of the two."""
    chosen, rejected = (present(row, names[side], "", "an answer") for side in ("chosen", "rejected"))
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise Broken(names["rejected"], describe(rejected), f"as in {names['chosen']}: {describe(chosen)}")
    prepared = _of_messages(row, names) if isinstance(chosen, list) else _of_texts(row, names)
    if prepared["chosen"] == prepared["rejected"]:
        raise Broken(names["rejected"], "the same answer as in chosen", "another answer: equal sides teach nothing")
    return prepared


def unpaired_row(row: Row, names: Mapping[str, str]) -> Row:
    """{"prompt", "completion", "label"}: prompt and completion both texts or both messages; label says whether it is good."""
    label = truth(row, names["label"])
    if any(isinstance(row.get(names[part]), list) for part in ("prompt", "completion")):
        prompt = _prompt_messages(row, names["prompt"])
        return {"prompt": prompt, "completion": _answer(row, names["completion"], prompt), "label": label}
    return {"prompt": text(row, names["prompt"]), "completion": text(row, names["completion"]), "label": label}


def unpaired_halves(preference: Row) -> list[Row]:
    """A preference as two rows with a verdict each."""
    return [
        {"prompt": preference["prompt"], "completion": preference[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
    ]


def _of_texts(row: Row, names: Mapping[str, str]) -> Row:
    if isinstance(row.get(names["prompt"]), list):
        asked = _prompt_messages(row, names["prompt"])
        return {"prompt": asked} | {side: _answer(row, names[side], asked) for side in ("chosen", "rejected")}
    chosen, rejected = text(row, names["chosen"]), text(row, names["rejected"])
    if row.get(names["prompt"]) is not None:
        return {"prompt": text(row, names["prompt"]), "chosen": chosen, "rejected": rejected}
    if chosen == rejected:
        raise Broken(names["rejected"], "the same answer as in chosen", "another answer: equal sides teach nothing")
    end = _end_of_prompt(chosen[: _alike(chosen, rejected)])
    for side, value in (("chosen", chosen), ("rejected", rejected)):
        if not value[:end].strip() or not value[end:].strip():
            raise Broken(names[side], "no answer after a beginning shared with the other side", SHARED)
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


def _alike(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many characters or messages two beginnings share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _end_of_prompt(shared: str) -> int:
    """After the last turn of a dialogue, else before the last white space, so that no word is cut."""
    if (turn := shared.rfind(DIALOGUE_TURN)) >= 0:
        return turn + len(DIALOGUE_TURN)
    spaces = list(re.finditer(r"\s+", shared))
    return spaces[-1].start() if spaces else 0


def _of_messages(row: Row, names: Mapping[str, str]) -> Row:
    sides = {side: entries(row, names[side], "a list of messages") for side in ("chosen", "rejected")}
    stated = row.get(names["prompt"])
    if stated is not None and all(_role(messages[0]) == "assistant" for messages in sides.values()):
        prompt = _prompt_messages(row, names["prompt"])
        return {"prompt": prompt} | {side: _answer(row, names[side], prompt) for side in sides}
    whole = {side: conversation(messages, names[side]) for side, messages in sides.items()}
    prompt = whole["chosen"][: _alike(whole["chosen"], whole["rejected"])]
    while prompt and prompt[-1]["role"] not in ("user", "tool"):
        prompt.pop()
    if not prompt:
        raise Broken(names["rejected"], "a conversation that begins otherwise than the chosen one", SHARED)
    _agrees(stated, prompt, names["prompt"])
    answers = {side: messages[len(prompt) :] for side, messages in whole.items()}
    for side, messages in answers.items():
        _ends_with_answer(messages, names[side])
    return {"prompt": prompt} | answers


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _agrees(stated: Any, prompt: list[Row], field: str) -> None:
    """Some datasets repeat the prompt beside whole conversations; it must be the same one."""
    if isinstance(stated, list):
        stated = conversation(stated, field)
    if stated is not None and stated != prompt and stated not in [message["content"] for message in prompt]:
        raise Broken(field, describe(stated), "the prompt that chosen and rejected begin with, or none")


def _prompt_messages(row: Row, field: str) -> list[Row]:
    """A prompt as messages, ending where an answer is due; a text is the user's message."""
    if isinstance(row.get(field), str):
        return [{"role": "user", "content": text(row, field)}]
    prompt = conversation(entries(row, field, "a prompt: a text or a list of messages"), field)
    if prompt[-1]["role"] not in ("user", "tool"):
        raise Broken(f"{field}[{len(prompt) - 1}].role", prompt[-1]["role"], "user: the prompt ends with a question")
    return prompt


def _answer(row: Row, field: str, prompt: list[Row]) -> list[Row]:
    """The messages that answer a prompt; a text is the assistant's message."""
    if isinstance(row.get(field), str):
        return [{"role": "assistant", "content": text(row, field)}]
    messages = entries(row, field, "an answer: a text or a list of messages")
    checked = conversation(messages, field, after=prompt)
    _ends_with_answer(checked, field)
    return checked


def _ends_with_answer(messages: list[Row], field: str) -> None:
    if messages[-1]["role"] != "assistant":
        raise Broken(field, messages[-1]["role"], "a conversation whose last message is the assistant's")
