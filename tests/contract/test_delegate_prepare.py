"""The prepare stage of a delegated job, as a process: rows are checked and split as ever, and no base model is asked for."""

from pathlib import Path
from typing import Any

from finetune_api.artifacts import ResolvedDelegation
from finetune_api.pods import JobConfig, Summary
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_storage import open_store
from json_lines import stored
from prepared_jobs import UID, job_store
from stage_process import fork_stage


def prepare(
    bucket: str,
    secrets_dir: Path,
    work: Path,
    rows: list[dict[str, Any]],
    base: str = "openai://gpt-4o-mini",
    **spec: Any,
) -> tuple[JobConfig, Summary]:
    """Upload rows and run the stage."""
    train = stored(open_store(bucket, secrets_dir / "s3"), "rows.jsonl", rows)
    written = {
        "baseModel": {"uri": base},
        "dataset": {"train": train, "split": {"test": 0.25}},
        "output": {"uri": bucket, "secretRef": {"name": "s3"}},
        "backend": {"openai": {"secretRef": {"name": "openai"}}},
        **spec,
    }
    config = JobConfig(
        namespace="team-a",
        name="tiny",
        uid=UID,
        spec=FineTuneJobSpec.model_validate(written),
        base_model=ResolvedBaseModel(uri=base),
        image="trainer@sha256:0",
    )
    fork_stage("finetune_trainer", "prepare", config, secrets_dir, work).communicate(timeout=120)
    return config, Summary.model_validate_json((work / "end").read_bytes())


def test_rows_are_split_and_what_is_left_out_is_the_providers(bucket: str, secret: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"red thing {n}", "completion": "röd"} for n in range(20)]
    config, summary = prepare(bucket, secret.parent, tmp_path / "work", rows)
    assert summary.prepared is not None, summary.error
    assert {split.name: split.rows for split in summary.prepared.dataset.splits} == {"train": 15, "test": 5}
    chosen = {choice.field: choice.value for choice in summary.prepared.plan.choices}
    assert chosen["evaluation.metrics"] == "[ExactMatch]"
    assert not any(field.startswith("training.") for field in chosen)
    resolved = ResolvedDelegation.model_validate_json(job_store(config, secret.parent).get("resolved.json"))
    assert (resolved.method, resolved.format) == ("sft", "PromptCompletion")
    assert resolved.evaluation.max_new_tokens == 4, "bytes, each of which may be a token"


def test_a_broken_row_is_named_before_anything_is_sent(bucket: str, secret: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": ""}]
    _, summary = prepare(bucket, secret.parent, tmp_path / "work", rows)
    assert summary.error is not None
    assert summary.error.code == "DataInvalid"
    assert "line 2, field completion" in summary.error.message


def test_a_gate_on_answers_that_all_call_tools_is_refused(bucket: str, secret: Path, tmp_path: Path) -> None:
    call = {"function": {"name": "look", "arguments": {}}}
    asked = [{"role": "user", "content": f"thing {n}"} for n in range(20)]
    rows = [{"messages": [each, {"role": "assistant", "tool_calls": [call]}]} for each in asked]
    gate = {"gate": [{"metric": "ExactMatch", "min": 0.5}]}
    _, summary = prepare(bucket, secret.parent, tmp_path / "work", rows, evaluation=gate)
    assert summary.error is not None
    assert summary.error.code == "DataInvalid"
    assert "the answers of all held-out rows call tools" in summary.error.message


VERTEX = {
    "vertex": {"project": "p", "location": "europe-west4", "stagingUri": "gs://rows", "secretRef": {"name": "google"}}
}


def test_what_the_provider_would_not_take_is_said_before_anything_is_sent(
    bucket: str, secret: Path, tmp_path: Path
) -> None:
    call = {"function": {"name": "look", "arguments": {}}}
    turns = [
        {"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "b"}, {"role": "assistant", "content": "c"},
    ]  # fmt: skip
    rows = [{"messages": turns}]
    spec = {"dataset": {"train": {"uri": f"{bucket}/rows.jsonl", "secretRef": {"name": "s3"}}}}
    _, summary = prepare(bucket, secret.parent, tmp_path / "work", rows, "vertex://gemini", backend=VERTEX, **spec)
    assert summary.error is not None
    assert (summary.error.code, summary.error.message) == (
        "DataInvalid",
        "Vertex AI does not take row 1 of data/train.jsonl: found a turn of role assistant, expected system, user and assistant texts",
    )
