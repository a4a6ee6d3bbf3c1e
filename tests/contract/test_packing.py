"""Our count of packed sequences is TRL's."""

import random

import pytest

from finetune_trainer.data.packing import sequence_count


@pytest.mark.parametrize(("strategy", "whole_text"), [("bfd", False), ("wrapped", True)])
@pytest.mark.parametrize("rows", [1, 999, 2500])
def test_sequences_are_counted_as_trl_packs(strategy: str, whole_text: bool, rows: int) -> None:
    from datasets import Dataset
    from trl import pack_dataset

    chance = random.Random(rows)
    lengths = [chance.choice([3, 17, 40, 64, 100, 300]) + chance.randrange(20) for _ in range(rows)]
    packed = pack_dataset(Dataset.from_dict({"input_ids": [[7] * length for length in lengths]}), 128, strategy)
    assert sequence_count(lengths, 128, packing=True, whole_text=whole_text) == len(packed)
