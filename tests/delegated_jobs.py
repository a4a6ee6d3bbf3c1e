"""Delegated jobs as the prepare stage leaves them in object storage, and the delegate as a pod runs it."""

import tempfile
from pathlib import Path
from typing import Any

import pytest

import openai_stand_in
from finetune_api.artifacts import RESOLVED, Manifest, ResolvedDelegation, job_folder
from finetune_api.pods import JobConfig, Trained
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_delegate import recipe
from finetune_delegate.provider import Task
from finetune_stage.outcome import Places
from finetune_storage import commit_folder, document, open_store
from openai_stand_in import OpenAI
from prepared_jobs import UID, Rows, _write, colour_chats
from stage_process import ForkedProgram, fork_stage

ROWS = {"train": colour_chats(12), "test": colour_chats(6, first=100)}


def delegated_job(
    bucket: str,
    secrets_dir: Path,
    backend: dict[str, Any],
    base: str,
    rows: dict[str, Rows] | None = None,
    *,
    evaluation: dict[str, Any] | None = None,
    dry_run: bool = False,
    **spec: Any,
) -> JobConfig:
    """Store a job's data and resolved.json; its job.json."""
    rows = rows or ROWS
    folder = job_folder(bucket, "team-a", "tiny", UID)
    store = open_store(folder, secrets_dir / "s3")
    with tempfile.TemporaryDirectory() as scratch:
        splits = [_write(Path(scratch), split, items) for split, items in rows.items()]
        digest = commit_folder(store, Path(scratch), "data", Manifest(kind="Data", files=[]))
    fields = rows["train"][0]
    base_model = ResolvedBaseModel(uri=base)
    judged = {"metrics": ["ExactMatch"], "maxNewTokens": 8, **(evaluation or {})}
    resolved = ResolvedDelegation(
        namespace="team-a",
        name="tiny",
        uid=UID,
        method="dpo" if "chosen" in fields else "sft",
        format="Messages" if "messages" in fields else "Preference" if "chosen" in fields else "PromptCompletion",
        base_model=base_model,
        splits=splits,
        in_place=[],
        data_digest=digest,
        evaluation=EvaluationSpec.model_validate(judged),
        seed=42,
        choices=[],
        output_folder=folder,
    )
    store.put(RESOLVED, document(resolved))
    written = {
        "baseModel": {"uri": base},
        "dataset": {"train": {"uri": f"{bucket}/train.jsonl"}},
        "output": {"uri": bucket, "secretRef": {"name": "s3"}},
        "backend": backend,
        **spec,
    }
    return JobConfig(
        namespace="team-a",
        name="tiny",
        uid=UID,
        spec=FineTuneJobSpec.model_validate(written),
        base_model=base_model,
        image="trainer@sha256:0",
        delegate_image="operator@sha256:0",
        dry_run=dry_run,
    )


def openai_job(
    bucket: str, secrets_dir: Path, openai: OpenAI, base: str = openai_stand_in.BASE, **more: Any
) -> JobConfig:
    """One at the played service with OpenAI's API."""
    backend = {"openai": {"baseUrl": openai.url, "secretRef": {"name": "openai"}, **more.pop("backend", {})}}
    return delegated_job(bucket, secrets_dir, backend, f"openai://{base}", **more)


def task(config: JobConfig, secrets_dir: Path, work: Path, patience: float = 20.0) -> Task:
    """What the delegate is started with."""
    return Task(config, Places(secrets_dir=secrets_dir, work_dir=work, secret_wait=0.2), patience)


def run_here(config: JobConfig, secrets_dir: Path, work: Path, patience: float = 20.0) -> Trained:
    """The train stage in this process."""
    work.mkdir(exist_ok=True)
    trained = recipe.run(task(config, secrets_dir, work, patience), poll_seconds=0.01)
    assert isinstance(trained, Trained)
    return trained


def ended(config: JobConfig, secrets_dir: Path, work: Path, patience: float = 20.0) -> Failure:
    """How it ended that could not go on."""
    with pytest.raises(Failure) as raised:
        run_here(config, secrets_dir, work, patience)
    return raised.value


def start_delegate(config: JobConfig, secrets_dir: Path, work: Path, stage: str = "train") -> ForkedProgram:
    """The delegate as a pod runs it."""
    return fork_stage("finetune_delegate", stage, config, secrets_dir, work, "--poll-seconds=0.05")
