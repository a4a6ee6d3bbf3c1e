"""Prepared rows -> token ids and labels. The one place that tokenises for training and for the evaluation.

Labels are -100 where nothing is learned. An answer is a completion, or the last assistant turn of a conversation, up to and
with its end token, which it gets where the chat template writes none; a prompt is everything before it, exactly as a server would see it.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple

from finetune_api.artifacts import PreparedFormat
from finetune_api.reasons import Failure, Reason
from finetune_stage.chats import answer_of
from finetune_trainer.chat_template import check_texts, default_template, missing_end, training_template, written
from finetune_trainer.data.tokenizing import Remembering, texts_of
from finetune_trainer.rewards import answer_text

ROWS_AT_A_TIME = 1000
IGNORED = -100
Fields = dict[str, Any]


class Example(NamedTuple):
    """A tokenised row."""

    input_ids: list[int]
    labels: list[int]
    row: int = -1
    """Number of the prepared row, from 0, where it is one to learn from."""


class Pair(NamedTuple):
    """A prompt and two answers to it, tokenised; both sides begin with the prompt's tokens."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    row: int = -1
    """As an Example's."""

    def sides(self) -> tuple[Example, Example]:
        """The chosen and the rejected side, in which only the answer counts."""
        blank = [IGNORED] * len(self.prompt)
        chosen, rejected = (Example(self.prompt + side, blank + side) for side in (self.chosen, self.rejected))
        return chosen, rejected


class _Answered(NamedTuple):
    """A prompt with an answer to it. Tokens may merge where the two meet: the answer begins where this differs from the prompt."""

    start: int
    """Of the answer."""
    ids: list[int]


@dataclass(frozen=True)
class Encoder:
    """Tokenises rows of one format."""

    tokenizer: Any
    format: PreparedFormat
    answers_only: bool
    """Train on answers (every assistant turn) only, or on all tokens."""
    training_template: str | None
    """Messages: the chat template that marks assistant turns."""
    markers: frozenset[int] = frozenset()
    """Tokens the base's vocabulary was given beside its words: ends of turns are among them."""
    end: int | None = None
    """What ends an answer where the chat template ends the last turn of a conversation with nothing; None where it does end it."""
    day: date | None = None
    """What chat templates that ask for the date are told; None: today."""

    def training(self, fields: Fields) -> Example:
        """A row to learn from; of a preference the longer side, of a text to classify all tokens."""
        if self.format == "Preference":
            return max(self.pair(fields).sides(), key=lambda side: len(side.input_ids))
        if self.format == "Unpaired":
            return self.answer(fields)
        if self.format == "Classification":
            ids = self._closed(fields["text"])
            return Example(ids, list(ids))
        if self.format == "Messages":
            return self._conversation(fields)
        if self.format == "PromptCompletion" and self.answers_only:
            return self.answer(fields)
        ids = self._document(fields["text"] if self.format == "Text" else fields["prompt"] + fields["completion"])
        return Example(ids, list(ids))

    def measured(self, fields: Fields, *, learned: bool) -> "Example | Pair":
        """A row to be counted: as it is ``learned`` from or as its answer counts; a preference with both sides."""
        if self.format == "Preference":
            return self.pair(fields)
        return self.training(fields) if learned else self.answer(fields)

    def answer(self, fields: Fields) -> Example:
        """A row in which only the answer counts (cpt: the text; a preference: the chosen answer)."""
        if self.format in ("Text", "Classification"):
            return self.training(fields)
        if self.format == "Preference":
            return self.pair(fields).sides()[0]
        own = fields["messages"][-1:] if self.format == "Messages" else fields["completion"]
        start, ids = self._answered(fields, self.prompt(fields), own)
        return Example(ids, [IGNORED] * start + ids[start:])

    def pair(self, fields: Fields) -> Pair:
        """A preference, both sides cut where one of them first differs from the prompt."""
        prompt = self.prompt(fields)
        chosen, rejected = (self._answered(fields, prompt, fields[side]) for side in ("chosen", "rejected"))
        start = min(chosen.start, rejected.start)
        return Pair(prompt[:start], chosen.ids[start:], rejected.ids[start:])

    def prompt(self, fields: Fields) -> list[int]:
        """What a model is asked."""
        asked = fields["messages"][:-1] if self.format == "Messages" else fields["prompt"]
        return self._ids(asked) if isinstance(asked, str) else self._rendered(fields, asked, add_generation_prompt=True)

    def reference(self, fields: Fields) -> str:
        """The right answer as a model would write it: of a conversation with what the chat template puts around its text, as an empty
        thought, and with the tool calls."""
        if self.format != "Messages":
            return answer_of(fields)
        learned = [token for token in self.answer(fields).labels if token != IGNORED]
        return answer_text(self.tokenizer, learned, learned[-1:])

    def with_answer(self, fields: Fields, answer: str) -> Fields:
        """The row with another answer, between the white space of its own."""
        own = answer_of(fields)
        spaced = own.replace(own.strip(), answer, 1) if own.strip() else answer
        if self.format == "Messages":
            return fields | {"messages": [*fields["messages"][:-1], fields["messages"][-1] | {"content": spaced}]}
        return fields | {"completion": spaced}

    def _conversation(self, fields: Fields) -> Example:
        if not self.answers_only:
            ids = self._rendered(fields, fields["messages"]) + ([] if self.end is None else [self.end])
            return Example(ids, list(ids))
        rendered = written(
            self.tokenizer,
            fields["messages"],
            self.training_template,
            self.day,
            tools=fields.get("tools"),
            return_assistant_tokens_mask=True,
        )
        pairs = zip(rendered["input_ids"], rendered["assistant_masks"], strict=True)
        return Example(list(rendered["input_ids"]), [token if learned else IGNORED for token, learned in pairs])

    def _answered(self, fields: Fields, prompt: list[int], answer: str | list[Fields]) -> "_Answered":
        """The row's prompt and an answer to it, both texts or both messages, up to the answer's end."""
        if isinstance(answer, str):
            ids = self._document(fields["prompt"] + answer)
            return _Answered(shared(prompt, ids), ids)
        asked = fields["messages"][:-1] if self.format == "Messages" else fields["prompt"]
        ids = self._rendered(fields, asked + answer)
        start, last = shared(prompt, ids), _last(ids, self.markers)
        if self.end is None and last >= start:
            return _Answered(start, ids[: last + 1])  # what a template puts after the end is no answer
        return _Answered(start, [*ids, self._missing_end(fields)])

    def _missing_end(self, fields: Fields) -> int:
        """What ends the answer of a row, as it is learned: templates that mark answers put it there."""
        learned = self._conversation(fields).labels if self.training_template is not None else []
        usual = self.tokenizer.eos_token_id if self.end is None else self.end
        return next((token for token in reversed(learned) if token in self.markers), usual)

    def _rendered(self, fields: Fields, messages: list[Fields], *, add_generation_prompt: bool = False) -> list[int]:
        """By the tokenizer's own template, which writes every special token itself."""
        asked = {"tools": fields.get("tools"), "add_generation_prompt": add_generation_prompt}
        rendered = written(self.tokenizer, messages, None, self.day, **asked)
        return list(rendered["input_ids"])

    def _closed(self, text: str) -> list[int]:
        """A text to be judged, with what the tokenizer puts around it; where that is nothing, with the end token."""
        ids = list(self.tokenizer(text)["input_ids"])
        if self.tokenizer.sep_token_id in ids or ids[-1:] == [self.tokenizer.eos_token_id]:
            return ids
        return [*ids, self.tokenizer.eos_token_id]

    def _document(self, text: str) -> list[int]:
        ids = self._ids(text)
        return ids if ids[-1:] == [self.tokenizer.eos_token_id] else [*ids, self.tokenizer.eos_token_id]

    def _ids(self, text: str) -> list[int]:
        """Plain text; some tokenizers add a first token, which is kept, some a last one, which is not part of a prompt."""
        ids = list(self.tokenizer(text)["input_ids"])
        added = ids[-1:] == [self.tokenizer.eos_token_id] and not text.endswith(self.tokenizer.eos_token)
        return ids[:-1] if added else ids


def encoder(
    tokenizer: Any,
    format_: PreparedFormat,
    answers_only: bool,
    new_tokens: Sequence[str] = (),
    day: date | None = None,
) -> Encoder:
    """The encoder of a format; ``new_tokens``, which the job adds, are parts of texts; ``day`` is the prepare stage's. Raises Failure
    where the tokenizer cannot express the format."""
    if tokenizer.eos_token_id is None and not (format_ == "Classification" and tokenizer.sep_token_id is not None):
        raise Failure(Reason.CONFIG_INVALID, "the base model's tokenizer has no end-of-text token (eos_token)")
    template = None
    if format_ == "Messages":
        default_template(tokenizer)
        template = training_template(tokenizer) if answers_only else None
        check_texts(tokenizer, template)
    markers = _markers(tokenizer, new_tokens)
    return Encoder(tokenizer, format_, answers_only, template, markers, missing_end(tokenizer, markers), day)


def _markers(tokenizer: Any, new_tokens: Sequence[str]) -> frozenset[int]:
    """What was added to the words of a vocabulary, but for runs of white space, and the end token."""
    added = {token for text, token in tokenizer.get_added_vocab().items() if text.strip() and text not in new_tokens}
    return frozenset(added if tokenizer.eos_token_id is None else {*added, tokenizer.eos_token_id})


def encode_training(encoder: Encoder, rows: list[Fields], max_length: int, *, packed: bool) -> Iterator[Example]:
    """All rows to learn from; those without a learned token within ``max_length`` are left out and counted.

    Packing of raw text cuts nothing off, so that nothing is left out there. Raises Failure where none is left.
    """
    whole, kept = packed and encoder.format == "Text", 0
    for number, example in enumerate(_tokenised(encoder, rows)):
        if whole or _learns(example.labels[:max_length]):
            kept += 1
            yield example._replace(row=number)
    if not kept:
        raise Failure(
            Reason.DATA_INVALID,
            f"none of the {len(rows)} training rows has a token to learn within training.maxLength ({max_length})",
        )
    if kept < len(rows):
        print(f"{len(rows) - kept} training rows left out: no answer within {max_length} tokens", flush=True)


def _tokenised(encoder: Encoder, rows: list[Fields]) -> Iterator[Example]:
    """A thousand at once, which is faster than one by one, and takes no more memory than they do."""
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        group = rows[start : start + ROWS_AT_A_TIME]
        texts = [text for fields in group for text in texts_of(fields)]
        yield from map(replace(encoder, tokenizer=Remembering(encoder.tokenizer, texts)).training, group)


def _learns(labels: list[int]) -> bool:
    return any(label != IGNORED for label in labels[1:])  # nothing predicts the first token


def stop_tokens(encoder: Encoder, fields: Fields, generation_eos: int | list[int] | None) -> list[int]:
    """Tokens that end an answer: the model's own, the tokenizer's, and the one that ends a row's answer."""
    own = generation_eos if isinstance(generation_eos, list) else [generation_eos]
    end = encoder.answer(fields).input_ids[-1]
    return sorted(
        {token for token in own if token is not None} | {encoder.tokenizer.eos_token_id} | ({end} & encoder.markers)
    )


def shared(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences begin with together."""
    shorter = range(min(len(one), len(other)))
    return bisect_left(shorter, True, key=lambda place: one[: place + 1] != other[: place + 1])


def _last(ids: list[int], wanted: frozenset[int]) -> int:
    """Place of the last wanted token; -1 without one."""
    return next((place for place in range(len(ids) - 1, -1, -1) if ids[place] in wanted), -1)
