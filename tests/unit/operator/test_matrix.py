"""Every cell of methods and adapters that is refused says so; what cannot be served is not trained to be deployed."""

from typing import Any

import pytest

from builders import World, a_job, condition, message
from finetune_api.matrix import ADAPTERS, METHODS, REFUSED, SUPPORTED_METHODS, page, refusal
from finetune_api.servable import servable

REFUSED_CELLS = [(method, adapter) for method in METHODS for adapter in ADAPTERS if refusal(method, adapter)]


@pytest.mark.parametrize(("method", "adapter"), REFUSED_CELLS, ids=["-".join(cell) for cell in REFUSED_CELLS])
def test_a_refused_cell_is_not_accepted_and_says_why(method: Any, adapter: Any) -> None:
    world = World(a_job(method={method: {}}, adapter={"type": adapter}))
    status = world.settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    said = message(status, "Accepted")
    assert said == refusal(method, adapter)
    assert REFUSED.get((method, adapter), "not supported yet") in said or "not supported yet" in said
    assert world.log == ["status FineTuneJob bot"]


def test_the_page_marks_what_is_trained_and_says_why_the_rest_is_not() -> None:
    lines = page().splitlines()
    for method in METHODS:
        [row] = [line for line in lines if line.startswith(f"| {method} |")]
        marks = [cell.strip() for cell in row.split("|")[2:-1]]
        assert marks == ["-" if refusal(method, adapter) else "✓" for adapter in ADAPTERS]
    for (method, adapter), why in REFUSED.items():
        assert f"- {method} with {adapter}: {why}." in lines


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ("Full", "it is a whole model"),
        ("IA3", "IA3 scales channels"),
        ("Prefix", "lives in the attention cache"),
        ("Prompt", "no tokens of the vocabulary"),
    ],
)
def test_an_adapter_no_server_can_load_is_not_deployed(adapter: str, says: str) -> None:
    status = World(a_job(adapter={"type": adapter}, deploy={"name": "x"})).settle()
    assert condition(status, "Accepted") == ("False", "Unsupported")
    assert says in message(status, "Accepted")
    assert message(status, "Accepted").endswith("use adapter LoRA, QLoRA, RsLoRA or LoraPlus, or leave deploy out.")


def test_magnitudes_are_served_by_transformers() -> None:
    accepted = World(a_job(adapter={"type": "DoRA"}, deploy={"name": "x"})).settle()
    assert condition(accepted, "Accepted") == ("True", "Supported")


@pytest.mark.parametrize("method", SUPPORTED_METHODS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_artifact_is_marked_with_a_reason(method: str, adapter: Any) -> None:
    how, why = servable(method, adapter, 16)
    assert how in ("Adapter", "Merged", "No")
    assert why


def test_a_rank_above_what_a_server_accepts_is_merged() -> None:
    assert servable("sft", "LoRA", 512)[0] == "Adapter"
    assert servable("sft", "LoRA", 513) == ("Merged", "its rank 513 is above 512, vLLM's highest")
