"""Many texts tokenised at once, in parallel, for an encoder that asks for one at a time; and whether tools are rendered."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from finetune_api.reasons import Failure, Reason
from finetune_trainer.chat_template import UNWRITTEN
from finetune_trainer.data.fields import Row

T = TypeVar("T")


class Remembering:
    """A tokenizer that knows the texts of the rows at hand, which it tokenised in one call; anything else it hands on to the
    tokenizer it stands for."""

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        encoded = tokenizer(texts, return_attention_mask=False)["input_ids"] if texts else []
        self._tokenizer = tokenizer
        self._known = {text: {"input_ids": ids} for text, ids in zip(texts, encoded, strict=True)}
        # Asked for with every row, and looked up slowly.
        self.eos_token, self.eos_token_id = tokenizer.eos_token, tokenizer.eos_token_id

    def __call__(self, text: str) -> Any:
        return self._known.get(text) or self._tokenizer(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def one_ahead(work: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Results of calls, in their order; the next is made while one is looked at. Tokenizers leave the interpreter to others."""
    ahead: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1) as thread:
        for call in work:
            ahead.append(thread.submit(call))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def texts_of(row: Row) -> list[str]:
    """What the encoder will ask the tokenizer for."""
    if "text" in row:
        return [row["text"]]
    if isinstance(row.get("prompt"), str):
        return [
            row["prompt"],
            *(row["prompt"] + row[side] for side in ("completion", "chosen", "rejected") if side in row),
        ]
    return []


class ToolCheck:
    """Whether the base's chat template writes tools and tool calls; many leave them out without a word. So may the one that marks
    what is learned (``training_template``), where the base has a further one for rows with tools."""

    def __init__(self, tokenizer: Any, training_template: str | None) -> None:
        self._tokenizer = tokenizer
        self._training_template = training_template
        self._unchecked = {"tools", "tool_calls"}

    def check(self, row: Row) -> None:
        """Look at the first row that has any. Raises Failure."""
        if not self._unchecked or "messages" not in row:
            return
        calls = [call for message in row["messages"] for call in message.get("tool_calls", ())]
        named = {"tools": row.get("tools", ()), "tool_calls": calls}
        for what in [what for what in self._unchecked if named[what]]:
            self._unchecked.remove(what)
            names = {each["function"]["name"] for each in named[what]}
            if missing := self._missing(row, names, None):
                raise Failure(
                    Reason.CONFIG_INVALID,
                    f"rows have {what} ({missing[0][:64]}), and the base model's chat template does not write them; "
                    "take them out of the rows, or use a base whose template knows tools",
                )
            if self._training_template and (missing := self._missing(row, names, self._training_template)):
                raise Failure(
                    Reason.CONFIG_INVALID,
                    f"rows have {what} ({missing[0][:64]}), and of the base model's chat templates the one that marks assistant "
                    "turns does not write them; set method.sft.assistantOnlyLoss to false, or take them out of the rows",
                )

    def _missing(self, row: Row, names: set[str], template: str | None) -> list[str]:
        try:
            rendered = self._tokenizer.apply_chat_template(
                row["messages"], tools=row.get("tools"), chat_template=template, tokenize=False
            )
        except UNWRITTEN:
            rendered = ""
        return sorted(name for name in names if name not in rendered and json.dumps(name) not in rendered)
