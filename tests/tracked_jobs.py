"""A job as a tracker sees it: its settings, the lines it logs, how it ends. No model learns."""

import json
from pathlib import Path
from typing import Any

from finetune_api.artifacts import METRICS, Resolved, ResolvedAdapterSpec
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob_status import ArtifactStatus, EvaluationStatus, ResolvedBaseModel
from finetune_api.v1alpha1.tracking import MlflowTracking, TrackingSpec
from finetune_stage.outcome import Places
from finetune_trainer.inputs import Inputs
from finetune_trainer.mlflow_run import Ended
from prepared_jobs import spec_of, training

DIGEST = "sha256:" + "a" * 64
Lines = list[dict[str, Any]]


def a_line(step: int, loss: float, second: int = 0) -> dict[str, Any]:
    """Of metrics.jsonl."""
    figures = {"loss": loss, "learningRate": 1e-4 / step, "tokensPerSecond": 100.0 + second}
    return {"step": step, **figures, "time": f"2026-05-01T10:00:{second or step:02}Z"}


def an_end(lines: Lines, uid: str = "u") -> Ended:
    artifact = ArtifactStatus(kind="Adapter", uri="s3://bucket/tiny/adapter", digest=DIGEST)
    evaluation = EvaluationStatus(split="test", rows=9, tuned={"Loss": 1.5})
    return Ended(_resolved(uid), lines, artifact, evaluation)


def an_attempt(folder: Path, stated: MlflowTracking, *lines: dict[str, Any]) -> Inputs:
    """An attempt that goes on from these lines; its Secrets lie in the folder, and metrics.jsonl in one of its own."""
    work = folder / f"attempt-{len(list(folder.glob('attempt-*'))) + 1}"
    work.mkdir()
    resolved = _resolved("u").model_copy(update={"tracking": TrackingSpec(mlflow=stated)})
    inputs = Inputs(resolved, DIGEST, {}, None, Places(secrets_dir=folder, work_dir=work))  # type: ignore[arg-type]  # no store is asked
    write(inputs, *lines)
    return inputs


def write(inputs: Inputs, *lines: dict[str, Any]) -> None:
    """To metrics.jsonl, as the training does."""
    with (inputs.work / METRICS).open("a") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)


def _resolved(uid: str) -> Resolved:
    return Resolved(
        namespace="team-a",
        name="tiny",
        uid=uid,
        method="sft",
        format="Messages",
        base_model=ResolvedBaseModel(uri="s3://models/base"),
        dataset=spec_of("s3://bucket").dataset,
        splits=[],
        data_digest=DIGEST,
        adapter=ResolvedAdapterSpec(type="LoRA", rank=4),
        training=training(steps=2),
        evaluation=EvaluationSpec(),
        choices=[],
        output_folder="s3://bucket/tiny",
    )
