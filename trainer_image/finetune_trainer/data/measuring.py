"""Rows counted in tokens, by the encoder the train stage uses."""

import math
from array import array
from collections.abc import Iterator

from finetune_api.artifacts import ResolvedTraining
from finetune_api.v1alpha1.finetunejob_status import SplitStatistics
from finetune_trainer.data.packing import sequence_count
from finetune_trainer.data.sources import SplitName
from finetune_trainer.encode import IGNORED, Example, Pair, shared

NEVER = 2**32 - 1


def length(row: Example | Pair) -> int:
    """Tokens of a row, of a preference those of its longer side."""
    if isinstance(row, Pair):
        return len(row.prompt) + max(len(row.chosen), len(row.rejected))
    return len(row.input_ids)


class Lengths:
    """Tokens of each row of a split: all of them, where the learned ones begin, and how many they are.

    Of a preference the longer side counts, and something is learned from where the sides differ.
    """

    def __init__(self) -> None:
        self.tokens = array("I")
        self.others = array("I")
        """Of a preference's shorter side."""
        self.learned_from = array("I")
        self.spare = array("I")
        """Tokens of a preference's prompt that reward cuts off before it cuts answers: all but one."""
        self.learned = array("I")
        self.longest_answer = 0

    def add(self, row: Example | Pair) -> None:
        """Note a row."""
        if isinstance(row, Pair):
            chosen, rejected, prompt = len(row.chosen), len(row.rejected), len(row.prompt)
            alike = shared(row.chosen, row.rejected)
            first = NEVER if alike == chosen == rejected else prompt + alike
            self._note(prompt + max(chosen, rejected), first, max(chosen, rejected))
            self.others.append(prompt + min(chosen, rejected))
            self.spare.append(max(0, prompt - 1))
            return
        # As in training: nothing predicts the first token.
        labels = row.labels
        learned = len(labels) - labels.count(IGNORED) - (labels[:1] not in ([], [IGNORED]))
        first = next((place for place in range(1, len(labels)) if labels[place] != IGNORED), NEVER)
        self._note(len(row.input_ids), first, learned)
        self.others.append(0)
        self.spare.append(0)

    def _note(self, tokens: int, learned_from: int, learned: int) -> None:
        self.tokens.append(tokens)
        self.learned_from.append(learned_from)
        self.learned.append(learned)
        self.longest_answer = max(self.longest_answer, learned)

    def take(self, other: "Lengths", place: int) -> None:
        """Note a row that another split has noted."""
        self._note(other.tokens[place], other.learned_from[place], other.learned[place])
        self.others.append(other.others[place])
        self.spare.append(other.spare[place])

    def percentile(self, share: float) -> int:
        """The length that this share of the rows does not exceed."""
        return sorted(self.tokens)[math.ceil(share * len(self.tokens)) - 1]

    def sequences(
        self, max_length: int, *, packing: bool, whole_text: bool = False, whole_answers: bool = False
    ) -> int:
        """Sequences of an epoch; as in training, rows without a learned token within ``max_length`` are left out."""
        keep_all = packing and whole_text
        kept = [self.tokens[place] for place in self._kept(NEVER + 1 if keep_all else max_length, whole_answers)]
        return sequence_count(kept, max_length, packing=packing, whole_text=whole_text)

    def kept_tokens(self, max_length: int, *, whole_text: bool = False, whole_answers: bool = False) -> int:
        """Tokens of an epoch, those of both sides of a preference; rows are cut at ``max_length``, joined texts are not."""
        if whole_text:
            return self.total()
        return sum(self._cut(place, max_length, whole_answers) for place in self._kept(max_length, whole_answers))

    def total(self, max_length: int | None = None, *, whole_answers: bool = False) -> int:
        """Tokens of all rows, those of both sides of a preference; each cut at ``max_length``."""
        limit = NEVER if max_length is None else max_length
        return sum(self._cut(place, limit, whole_answers) for place in range(len(self.tokens)))

    def _kept(self, max_length: int, whole_answers: bool) -> Iterator[int]:
        """Places of the rows of which something is learned; with ``whole_answers`` (reward) prompts lose their beginning first."""
        for place, first in enumerate(self.learned_from):
            if first - (self.spare[place] if whole_answers else 0) < max_length:
                yield place

    def _cut(self, place: int, max_length: int, whole_answers: bool) -> int:
        over = max(0, self.tokens[place] - max_length)
        lost = min(over, self.spare[place]) if whole_answers and self.others[place] else 0
        return min(self.tokens[place], max_length) + min(self.others[place] - lost, max_length)

    def statistics(self, name: SplitName, training: ResolvedTraining, method: str) -> SplitStatistics:
        """What the user is shown."""
        joined = training.packing and method == "cpt"
        limit = max(self.tokens) if joined else training.max_length
        return SplitStatistics(
            name=name,
            rows=len(self.tokens),
            tokens=self.total(limit, whole_answers=method == "reward"),
            longest=max(self.tokens),
            truncated=sum(tokens > limit for tokens in self.tokens),
        )
