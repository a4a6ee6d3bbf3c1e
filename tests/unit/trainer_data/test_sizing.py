"""How many rows a forward pass has: by its tokens, and by what the method compares."""

from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from plan_builders import a_spec, lengths, plan


def micro_batch(method: dict[str, Any], tokens: int, rows: int = 64, **members: Any) -> int:
    """Of the plan for so many rows of so many tokens."""
    planned, _ = plan(a_spec(method=method, **members), positions=16384, train=lengths(*[tokens] * rows, answer=tokens))
    return planned.training.micro_batch_size


@pytest.mark.parametrize(
    ("method", "tokens", "rows", "expected"),
    [
        pytest.param({"kto": {}}, 2000, 64, 4, id="a row of kto is one sequence of the pass that is learned from"),
        pytest.param({"kto": {}}, 8000, 64, 2, id="loss Kto compares two rows at least"),
        pytest.param({"kto": {}}, 8000, 9, 3, id="which divide the batch"),
        pytest.param({"kto": {"lossType": "ApoZeroUnpaired"}}, 8000, 64, 1, id="its other loss compares none"),
        pytest.param({"dpo": {}}, 2000, 64, 2, id="a row of dpo is two sequences"),
        pytest.param({"dpo": {}}, 8000, 64, 1, id="which may be all there is"),
    ],
)
def test_the_rows_of_a_micro_batch(method: dict[str, Any], tokens: int, rows: int, expected: int) -> None:
    assert micro_batch(method, tokens, rows) == expected


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        pytest.param(
            {"training": {"microBatchSize": 1}}, r"microBatchSize is 1, .* batch of 16 is 2; state at", id="one row"
        ),
        pytest.param(
            {"training": {"microBatchSize": 2, "batchSize": 15}}, r"microBatchSize is 2, .* batch of 15 is 3", id="odd"
        ),
        pytest.param({"training": {"batchSize": 1}}, r"batchSize of at least 2$", id="a batch of one"),
        pytest.param(
            {"training": {"batchSize": 4}, "backend": {"kubernetes": {"gpus": 4}}},
            r"batchSize of at least 8$",
            id="a batch of one for each process",
        ),
    ],
)
def test_kto_is_refused_a_micro_batch_of_one_row_before_it_trains(members: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Failure, match=sentence) as end:
        micro_batch({"kto": {}}, 50, **members)
    assert end.value.reason is Reason.CONFIG_INVALID
