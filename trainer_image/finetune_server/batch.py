"""Sequences of one model that move forward together: left-padded tokens and one key/value cache.

A step runs the model over the columns that are not in the cache yet. A prompt is many columns, taken in bounded bites so that
a long one delays nobody for long; decoding is the same step with one column. Driven by :mod:`finetune_server.worker`.
"""

from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from finetune_server.generation import Generation, Piece, SamplingParams, Token

STEP_TOKENS = 512
"""Tokens of one step at most, all rows together."""

Emission = tuple[Generation, Piece]


class Batch:
    """Rows are generations; row i of each tensor is generation i."""

    def __init__(self, rows: list[Generation]) -> None:
        width = max(len(row.prompt) for row in rows)
        self.rows = rows
        self.ids = torch.tensor([[0] * (width - len(row.prompt)) + row.prompt for row in rows])
        self.mask = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows])
        # Without the model's config every layer keeps its whole past; sliding windows are then a matter of the mask alone.
        self.cache = DynamicCache()
        self.cached = 0
        """Columns in the cache."""
        self.is_decoding = False
        """Every prompt is in the cache, and all that is not is each row's newest token."""

    @torch.inference_mode()
    def step(self, model: Any) -> list[Emission]:
        """Run the model once; what was added. Finished rows leave the batch."""
        start, width = self.cached, self.ids.shape[1]
        end = min(width, start + max(1, STEP_TOKENS // len(self.rows)))
        is_scoring = any(row.params.echo and row.params.logprobs is not None for row in self.rows) and start + 1 < width
        positions = (self.mask[:, :end].cumsum(-1) - 1).clamp(min=0)[:, start:]
        logits = model(
            input_ids=self.ids[:, start:end],
            attention_mask=self.mask[:, :end],
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=0 if is_scoring else 1,
        ).logits.float()
        self.cached = end
        if is_scoring:
            self._score_prompts(logits, start, end)
        if end < width:
            return []
        self.is_decoding = True
        return self._extend(logits[:, -1])

    def keep(self, rows: list[Generation]) -> None:
        """Let the other rows go, and the padding only they needed."""
        if len(rows) == len(self.rows):
            return
        index = torch.tensor([i for i, row in enumerate(self.rows) if row in rows], dtype=torch.long)
        self.rows = [self.rows[i] for i in index.tolist()]
        self.ids, self.mask = self.ids[index], self.mask[index]
        spare = int(self.mask.any(dim=0).int().argmax()) if self.rows else 0
        spare = min(spare, self.cached)
        self.ids, self.mask, self.cached = self.ids[:, spare:], self.mask[:, spare:], self.cached - spare
        for layer in self._layers():
            layer.keys, layer.values = layer.keys[index, :, spare:], layer.values[index, :, spare:]

    def join(self, other: "Batch") -> None:
        """Take the rows of another prefilled batch in."""
        self._widen(other.ids.shape[1])
        other._widen(self.ids.shape[1])
        self.rows = self.rows + other.rows
        self.ids, self.mask = torch.cat([self.ids, other.ids]), torch.cat([self.mask, other.mask])
        for layer, more in zip(self._layers(), other._layers(), strict=True):
            layer.keys, layer.values = torch.cat([layer.keys, more.keys]), torch.cat([layer.values, more.values])

    def _widen(self, width: int) -> None:
        add = width - self.ids.shape[1]
        if add <= 0:
            return
        self.ids, self.mask, self.cached = pad(self.ids, (add, 0)), pad(self.mask, (add, 0)), self.cached + add
        for layer in self._layers():
            layer.keys, layer.values = pad(layer.keys, (0, 0, add, 0)), pad(layer.values, (0, 0, add, 0))

    def _layers(self) -> list[Any]:
        # Layers that share another's keys never fill their own.
        return [layer for layer in self.cache.layers if layer.is_initialized]

    def _score_prompts(self, logits: Tensor, start: int, end: int) -> None:
        """Column c's logits are about column c + 1."""
        for i, row in enumerate(self.rows):
            if not row.params.echo or row.params.logprobs is None:
                continue
            first = max(start, self.ids.shape[1] - len(row.prompt))
            logprobs = logits[i, first - start : end - start].log_softmax(-1)
            for column, scores in enumerate(logprobs[: self.ids.shape[1] - 1 - first], first + 1):
                row.prompt_tokens.append(scored(int(self.ids[i, column]), scores, row.params.logprobs))

    def _extend(self, logits: Tensor) -> list[Emission]:
        """One more token for each row."""
        if logits.isnan().any():
            raise ArithmeticError("the model's output is not a number")
        emissions: list[Emission] = []
        unfinished, column = [], []
        for row, scores in zip(self.rows, logits, strict=True):
            token = choose(scores, row) if row.params.max_tokens else None
            pieces = row.extend(token)
            emissions += [(row, piece) for piece in pieces]
            column.append(token.id if token else 0)
            if pieces[-1].finish is None:
                unfinished.append(row)
        self.ids = torch.cat([self.ids, torch.tensor(column)[:, None]], dim=1)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self.keep(unfinished)
        return emissions


def choose(logits: Tensor, row: Generation) -> Token:
    """The next token of a row, with log-probabilities of the model itself: before temperature and top_p."""
    token = sample(logits, row.params, row.random)
    if row.params.logprobs is None:
        return Token(token)
    return scored(token, logits.log_softmax(-1), row.params.logprobs)


def sample(logits: Tensor, params: SamplingParams, random: Random) -> int:
    """Greedy at temperature 0, else a draw from the smallest set of tokens that holds top_p of the probability."""
    if params.temperature == 0:
        return int(logits.argmax())
    probabilities, tokens = (logits.double() / params.temperature).softmax(-1).sort(descending=True, stable=True)
    below = probabilities.cumsum(-1)
    size = int((below - probabilities < params.top_p).sum())
    drawn = torch.searchsorted(below[:size], random.random() * below[size - 1], right=True)
    return int(tokens[min(int(drawn), size - 1)])


def scored(token: int, logprobs: Tensor, alternatives: int) -> Token:
    """A token with its log-probability and the likeliest alternatives."""
    own = float(logprobs[token])
    values, indices = logprobs.topk(min(alternatives, len(logprobs)))
    top = list(zip(indices.tolist(), values.tolist(), strict=True))
    if token not in (index for index, _ in top):
        top.append((token, own))
    return Token(token, own, tuple(top))
