"""Preferences: rows to learn from, the reference's log-probabilities, and how often a model prefers the chosen answer.

A model prefers the answer whose tokens it finds more probable, all of them taken together. So it has figures of its own,
and base and tuned model are compared by the same measure, whichever method made the difference.
"""

from collections.abc import Callable
from typing import Any

from finetune_api.reasons import Failure, Reason
from finetune_stage.scores import RowScore
from finetune_trainer.encode import Encoder, Example, Fields, Pair
from finetune_trainer.evaluate import Exam, at_rest, finite, likelihoods
from finetune_trainer.machine import Numerics

Cut = Callable[[Pair, int], Pair]
"""Shortens a pair to a length, both sides alike."""


def whole_prompt(pair: Pair, max_length: int) -> Pair:
    """What is too long loses its end: answers are learned from their beginning on."""
    room = max(0, max_length - len(pair.prompt))
    return Pair(pair.prompt[:max_length], pair.chosen[:room], pair.rejected[:room], pair.row)


def whole_answers(pair: Pair, max_length: int) -> Pair:
    """The prompt loses its beginning, the same for both sides, so that the answers stay whole."""
    room = max(1, max_length - max(len(pair.chosen), len(pair.rejected)))
    return whole_prompt(pair._replace(prompt=pair.prompt[-room:]), max_length)


def encode_pairs(
    encoder: Encoder, rows: list[Fields], max_length: int, cut: Cut = whole_prompt, what: str = "preferences"
) -> list[Pair]:
    """All pairs to learn from, cut; a pair is left out and counted where nothing tells its sides apart any more."""
    numbered = [encoder.pair(fields)._replace(row=number) for number, fields in enumerate(rows)]
    pairs = [cut(pair, max_length) for pair in numbered]
    kept = [pair for pair in pairs if pair.chosen != pair.rejected]
    if not kept:
        raise Failure(
            Reason.DATA_INVALID,
            f"none of the {len(rows)} {what} has two different answers within training.maxLength ({max_length}); raise it",
        )
    full = sum(len(pair.prompt) >= max_length for pair in pairs)  # no answer has room behind it
    for count, why in (
        (full, f"the prompt alone fills the {max_length} tokens"),
        (len(rows) - len(kept) - full, f"no difference within {max_length} tokens"),
    ):
        if count:
            print(f"{count} {what} left out: {why}", flush=True)
    return kept


def log_probabilities(model: Any, pairs: list[Pair], numerics: Numerics) -> list[tuple[float, float]]:
    """Of each pair, those of the chosen and of the rejected answer, in nats; without dropout."""
    with at_rest(model), numerics.autocast():
        return _log_probabilities(model, [pair.sides() for pair in pairs])


def score(model: Any, exam: Exam, numerics: Numerics) -> list[RowScore]:
    """Every pair's outcome; the loss is that of the chosen answer."""
    sides = [whole_answers(exam.encoder.pair(row.fields), exam.max_length).sides() for row in exam.rows]
    with at_rest(model), numerics.autocast():
        found = _log_probabilities(model, sides)
    return [
        RowScore(
            id=row.id,
            nll=finite(-chosen, row.id),
            tokens=sum(label >= 0 for label in side.labels[1:]),
            margin=finite(chosen - rejected, row.id),
        )
        for row, (side, _), (chosen, rejected) in zip(exam.rows, sides, found, strict=True)
    ]


def _log_probabilities(model: Any, sides: list[tuple[Example, Example]]) -> list[tuple[float, float]]:
    nlls = iter([nll for nll, _ in likelihoods(model, [side for both in sides for side in both])])
    return [(-next(nlls), -next(nlls)) for _ in sides]
