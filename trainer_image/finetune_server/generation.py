"""One sequence being generated: its prompt, what was asked for, and the text that comes out.

Made by :mod:`finetune_server.api`, moved forward by :mod:`finetune_server.batch` on the model thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from finetune_server.protocol import ApiError

CONTEXT_TOKENS = 5
"""Tokens of the prompt the detokenizer sees: SentencePiece drops the space of a text's first word."""


Finish = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class Decoder:
    """Tokens into text, and which tokens end it."""

    tokenizer: Any
    eos: frozenset[int]

    def text(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


@dataclass(frozen=True)
class SamplingParams:
    """What was asked for."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: str | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """How many alternatives per token; None: no log-probabilities at all."""
    echo: bool = False


@dataclass(frozen=True)
class Token:
    """A token, of the prompt or generated; log-probabilities where they were asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens, best first, and this one."""


@dataclass(frozen=True)
class Piece:
    """What one step added to a sequence. A sequence ends with exactly one piece that has ``finish``, or with an ApiError."""

    text: str
    tokens: tuple[Token, ...]
    finish: Finish | None = None
    is_prompt: bool = False


Sink = Callable[[Piece | ApiError], None]


class Generation:
    """A sequence on its way. The model thread owns it from submission to its last piece, but for ``cancelled``."""

    def __init__(
        self, model: str | None, prompt: list[int], params: SamplingParams, decoder: Decoder, sink: Sink
    ) -> None:
        self.model = model
        """The adapter's key in the model thread; None is the base."""
        self.prompt = prompt
        self.params = params
        self.sink = sink
        """Called in the event loop with each piece."""
        self.cancelled = False
        """Set by the event loop, read by the model thread before each step."""
        self.random = Random(params.seed)
        self.prompt_tokens = [Token(prompt[0])]
        """Prompt tokens scored so far, for echo; nothing comes before the first, so it has no probability."""
        self._decoder = decoder
        self._text = TextStream(decoder, params.stop, prompt[-CONTEXT_TOKENS:])
        self._left = params.max_tokens
        self._owes_echo = params.echo

    def extend(self, token: Token | None) -> list[Piece]:
        """What the next token adds, after the prompt where that is to be echoed; no token where max_tokens is 0."""
        pieces = [self._echo()] if self._owes_echo else []
        self._owes_echo = False
        return pieces if token is None else [*pieces, self._accept(token)]

    def _echo(self) -> Piece:
        scores = [Token(token) for token in self.prompt] if self.params.logprobs is None else self.prompt_tokens
        finish: Finish | None = None if self.params.max_tokens else "length"
        return Piece(self._decoder.text(self.prompt), tuple(scores), finish, is_prompt=True)

    def _accept(self, token: Token) -> Piece:
        self._left -= 1
        if token.id in self._decoder.eos:
            return Piece(self._text.flush(), (token,), "stop")
        text, is_stopped = self._text.push(token.id)
        if is_stopped:
            return Piece(text, (token,), "stop")
        if self._left == 0:
            return Piece(text + self._text.flush(), (token,), "length")
        return Piece(text, (token,))


@dataclass
class TextStream:
    """Token by token into text: never half a character, never a part of a stop string."""

    decoder: Decoder
    stop: tuple[str, ...]
    context: Sequence[int] = ()
    _ids: list[int] = field(init=False)
    _held: str = field(init=False, default="")
    """Text that may be the beginning of a stop string."""

    def __post_init__(self) -> None:
        self._ids = list(self.context)
        """Tokens since the last but one boundary of whole characters: the earlier ones decide about spaces."""
        self._boundary = len(self._ids)
        self._sent = len(self._decode())
        """Characters of these tokens' text that were given out."""

    def push(self, token: int) -> tuple[str, bool]:
        """Text that is certain now, and whether a stop string ended it."""
        self._ids.append(token)
        text = self._decode()
        # A last replacement character may be the first bytes of a character that is still to come.
        is_whole = not text.endswith("�")
        certain = text if is_whole else text[:-1]
        new = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        if is_whole and new:
            self._ids = self._ids[self._boundary :]
            self._boundary = len(self._ids)
            self._sent = len(self._decode())
        return self._release(new)

    def flush(self) -> str:
        """What is left at the end."""
        text, stopped = self._release(self._decode()[self._sent :])
        return text if stopped else text + self._held

    def _decode(self) -> str:
        return self.decoder.text(self._ids)

    def _release(self, new: str) -> tuple[str, bool]:
        self._held += new
        found = [at for at in map(self._held.find, self.stop) if at >= 0]
        if found:
            return self._held[: min(found)], True
        keep = max((_overlap(self._held, stop) for stop in self.stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text, False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
