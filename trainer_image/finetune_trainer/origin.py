"""Which prepared rows stand in a batch; asked when something is wrong with it, so that a training that goes well pays nothing.

The order of the rows follows from the seed alone: the batches of a step are found by going through that order again.
"""

from collections.abc import Sequence
from itertools import islice
from math import ceil
from typing import Any

from finetune_trainer.data.packing import ROWS_AT_A_TIME

ROW = "row"
"""Column of a training dataset: number of the prepared row, from 0."""


def micro_batches(trainer: Any, step: int) -> list[list[int]]:
    """Places in the trainer's dataset, by micro-batch of this process; steps count from 1."""
    loader = trainer.get_train_dataloader()
    accumulation = trainer.args.gradient_accumulation_steps
    epoch, done = divmod(step - 1, ceil(len(loader) / accumulation))
    loader.set_epoch(epoch)
    inner: Any = getattr(
        loader.batch_sampler, "batch_sampler", None
    )  # of several processes, which accelerate does not tell
    if hasattr(inner, "set_epoch"):
        inner.set_epoch(epoch)
    return [list(batch) for batch in islice(loader.batch_sampler, done * accumulation, (done + 1) * accumulation)]


def rows(trainer: Any, places: Sequence[int]) -> list[int]:
    """Numbers of the prepared rows at these places of the trainer's dataset, in order; of packed sequences all in them."""
    trained = trainer.train_dataset
    if ROW in trained.column_names:
        return sorted({trained[place][ROW] for place in places})
    before, max_length = trainer.unpacked, trainer.args.max_length
    if "seq_lengths" in trained.column_names:
        wanted = {segment for place in places for segment in _segments(trained[place])}
        return sorted(_holding(before, wanted, max_length))
    lengths = [len(row["input_ids"]) for row in before]
    return sorted(before[place][ROW] for place in _joined(lengths, max_length, set(places)))


def _segments(sequence: dict[str, Any]) -> list[tuple[int, ...]]:
    ends = [sum(sequence["seq_lengths"][: place + 1]) for place in range(len(sequence["seq_lengths"]))]
    return [tuple(sequence["input_ids"][start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _holding(before: Any, wanted: set[tuple[int, ...]], max_length: int) -> set[int]:
    """Of equal rows all: which of them was packed is not known, and does not matter."""
    return {row[ROW] for row in before if tuple(row["input_ids"][:max_length]) in wanted}


def _joined(lengths: list[int], max_length: int, wanted: set[int]) -> list[int]:
    """Places of the texts of which something stands in the wanted sequences, where texts are joined and cut anew."""
    found, first = [], 0
    for start in range(0, len(lengths), ROWS_AT_A_TIME):
        end = 0
        for place, length in enumerate(lengths[start : start + ROWS_AT_A_TIME], start):
            begin, end = end, end + length
            if length and wanted & set(range(first + begin // max_length, first + ceil(end / max_length))):
                found.append(place)
        first += ceil(end / max_length)
    return found
