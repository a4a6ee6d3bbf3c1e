"""The reply bodies of OpenAI's two completion endpoints, whole and in chunks. Used by :mod:`finetune_server.api`."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_server.generation import Decoder, Piece, Token

Json = dict[str, Any]


@dataclass
class Usage:
    """Tokens read and written; an echoed prompt was not written."""

    prompt_tokens: int
    completion_tokens: int = 0

    def count(self, piece: Piece) -> None:
        """Add what a piece wrote."""
        self.completion_tokens += 0 if piece.is_prompt else len(piece.tokens)

    def body(self) -> Json:
        """As OpenAI's clients read it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def joined(pieces: Sequence[Piece]) -> Piece:
    """A sequence's pieces as one."""
    return Piece(
        "".join(piece.text for piece in pieces),
        tuple(token for piece in pieces for token in piece.tokens),
        pieces[-1].finish,
    )


@dataclass
class CompletionFormat:
    """Bodies of /v1/completions."""

    model: str
    decoder: Decoder
    has_logprobs: bool
    _id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    _created: int = field(default_factory=lambda: int(time.time()))
    _offsets: dict[int, int] = field(default_factory=dict)
    """Characters of each choice so far."""

    def answer(self, pieces: Sequence[Piece], usage: Usage) -> Json:
        """The whole reply; one piece per choice."""
        return self._envelope([self._choice(i, piece) for i, piece in enumerate(pieces)]) | {"usage": usage.body()}

    def opening(self, choices: int) -> list[Json]:
        """Chunks before the first token."""
        return []

    def chunk(self, index: int, piece: Piece) -> Json:
        """A piece of a streamed reply."""
        return self._envelope([self._choice(index, piece)])

    def usage_chunk(self, usage: Usage) -> Json:
        """The last chunk, if the client asked for it."""
        return self._envelope([]) | {"usage": usage.body()}

    def _envelope(self, choices: list[Json]) -> Json:
        return {
            "id": self._id, "object": "text_completion", "created": self._created, "model": self.model, "choices": choices
        }  # fmt: skip

    def _choice(self, index: int, piece: Piece) -> Json:
        logprobs = self._logprobs(index, piece.tokens) if self.has_logprobs else None
        return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> Json:
        texts = [token_text(self.decoder, token.id) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                None
                if token.logprob is None
                else {token_text(self.decoder, other): lp for other, lp in reversed(token.top)}
                for token in tokens
            ],
            "text_offset": offsets,
        }


@dataclass
class ChatFormat:
    """Bodies of /v1/chat/completions."""

    model: str
    decoder: Decoder
    has_logprobs: bool
    top_logprobs: int
    _id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    _created: int = field(default_factory=lambda: int(time.time()))

    def answer(self, pieces: Sequence[Piece], usage: Usage) -> Json:
        """The whole reply; one piece per choice."""
        choices = [
            self._choice(i, piece) | {"message": {"role": "assistant", "content": piece.text}}
            for i, piece in enumerate(pieces)
        ]
        return self._envelope("chat.completion", choices) | {"usage": usage.body()}

    def opening(self, choices: int) -> list[Json]:
        """Chunks before the first token: each choice says who speaks."""
        start = {"logprobs": None, "finish_reason": None, "delta": {"role": "assistant", "content": ""}}
        return [self._envelope("chat.completion.chunk", [{"index": i, **start}]) for i in range(choices)]

    def chunk(self, index: int, piece: Piece) -> Json:
        """A piece of a streamed reply."""
        delta = {"content": piece.text} if piece.text else {}
        return self._envelope("chat.completion.chunk", [self._choice(index, piece) | {"delta": delta}])

    def usage_chunk(self, usage: Usage) -> Json:
        """The last chunk, if the client asked for it."""
        return self._envelope("chat.completion.chunk", []) | {"usage": usage.body()}

    def _envelope(self, kind: str, choices: list[Json]) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model, "choices": choices}

    def _choice(self, index: int, piece: Piece) -> Json:
        logprobs = {"content": [self._scored(token) for token in piece.tokens]} if self.has_logprobs else None
        return {"index": index, "logprobs": logprobs, "finish_reason": piece.finish}

    def _scored(self, token: Token) -> Json:
        assert token.logprob is not None
        top = [self._named(other, logprob) for other, logprob in token.top[: self.top_logprobs]]
        return self._named(token.id, token.logprob) | {"top_logprobs": top}

    def _named(self, token: int, logprob: float) -> Json:
        text = token_text(self.decoder, token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def token_text(decoder: Decoder, token: int) -> str:
    """A single token as text, special ones too."""
    text: str = decoder.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return text
