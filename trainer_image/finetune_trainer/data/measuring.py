"""Rows counted in tokens, by the encoder the train stage uses."""

import math
from array import array

from finetune_api.artifacts import ResolvedTraining
from finetune_api.v1alpha1.finetunejob_status import SplitStatistics
from finetune_trainer.data.packing import sequence_count
from finetune_trainer.data.sources import SplitName
from finetune_trainer.encode import IGNORED, Example


class Lengths:
    """Tokens of each row of a split: all of them, where the learned ones begin, and how many they are."""

    def __init__(self) -> None:
        self.tokens = array("I")
        self.learned_from = array("I")
        self.learned = array("I")
        self.longest_answer = 0

    def add(self, example: Example) -> None:
        """Note a row."""
        self.tokens.append(len(example.input_ids))
        # As in training: nothing predicts the first token.
        labels = example.labels
        learned = len(labels) - labels.count(IGNORED) - (labels[:1] not in ([], [IGNORED]))
        first = next((place for place in range(1, len(labels)) if labels[place] != IGNORED), 2**32 - 1)
        self.learned_from.append(first)
        self.learned.append(learned)
        self.longest_answer = max(self.longest_answer, learned)

    def take(self, other: "Lengths", place: int) -> None:
        """Note a row that another split has noted."""
        self.tokens.append(other.tokens[place])
        self.learned_from.append(other.learned_from[place])
        self.learned.append(other.learned[place])
        self.longest_answer = max(self.longest_answer, other.learned[place])

    def percentile(self, share: float) -> int:
        """The length that this share of the rows does not exceed."""
        return sorted(self.tokens)[math.ceil(share * len(self.tokens)) - 1]

    def sequences(self, max_length: int, *, packing: bool, whole_text: bool) -> int:
        """Sequences of an epoch; as in training, rows without a learned token within ``max_length`` are left out."""
        keep_all = packing and whole_text
        pairs = zip(self.tokens, self.learned_from, strict=True)
        kept = [tokens for tokens, learned in pairs if keep_all or learned < max_length]
        return sequence_count(kept, max_length, packing=packing, whole_text=whole_text)

    def kept_tokens(self, max_length: int, *, whole_text: bool) -> int:
        """Tokens of an epoch; rows are cut at ``max_length``, joined texts are not."""
        return sum(self.tokens if whole_text else (min(tokens, max_length) for tokens in self.tokens))

    def statistics(self, name: SplitName, training: ResolvedTraining, method: str) -> SplitStatistics:
        """What the user is shown."""
        joined = training.packing and method == "cpt"
        limit = max(self.tokens) if joined else training.max_length
        return SplitStatistics(
            name=name,
            rows=len(self.tokens),
            tokens=sum(min(tokens, limit) for tokens in self.tokens),
            longest=max(self.tokens),
            truncated=sum(tokens > limit for tokens in self.tokens),
        )
