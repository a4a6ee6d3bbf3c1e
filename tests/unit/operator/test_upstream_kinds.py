"""A job that made something else than a reference takes is told what it made."""

from typing import Any

import pytest

from builders import World, a_job, condition, message

TIME = {"lastTransitionTime": "2026-11-23T11:00:00Z"}
HELD_OUT = {"train": {"uri": "s3://data/rows.jsonl"}, "split": {"test": 0.1}}
REFERENCES: dict[str, dict[str, Any]] = {
    "baseModel.jobRef": {"baseModel": {"jobRef": {"name": "first"}}},
    "adapter.initial.jobRef": {"adapter": {"type": "LoRA", "initial": {"jobRef": {"name": "first"}}}},
    "evaluation.previous.jobRef": {"evaluation": {"previous": {"jobRef": {"name": "first"}}}, "dataset": HELD_OUT},
}
TAKES = {"baseModel.jobRef": "a whole model: a job with adapter Full"}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("Adapter", "an adapter"),
        ("Model", "a whole model"),
        ("Endpoint", "a model that lives at a provider"),
    ],
)
def test_what_was_made_instead_is_said(reference: str, kind: str, made: str) -> None:
    artifact = {"kind": kind, "uri": "s3://models/team/first/u/it", "digest": "sha256:" + "1" * 64}
    complete = [{"type": "Complete", "status": "True", "reason": "Complete", "message": "", **TIME}]
    first = a_job("first", status={"conditions": complete, "artifact": artifact})
    status = World(first, a_job(**REFERENCES[reference])).settle()
    wanted = "Model" if reference == "baseModel.jobRef" else "Adapter"
    if kind == wanted:
        assert condition(status, "Accepted") == ("True", "Supported")
        return
    takes = TAKES.get(reference, "an adapter: a job with adapter LoRA")
    assert message(status, "Accepted").startswith(f"FineTuneJob first made {made}; {reference} takes {takes}")
