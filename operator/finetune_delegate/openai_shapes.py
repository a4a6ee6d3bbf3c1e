"""Our values in OpenAI's shapes, and the other way round. Pure."""

from datetime import UTC, datetime
from typing import Any

from openai.types.fine_tuning import FineTuningJob

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import Checkpoint
from finetune_api.v1alpha1.provider import OpenAIBackend
from finetune_delegate.provider import UNKNOWN, End, View

STATES: dict[str, tuple[str, End | None]] = {
    "validating_files": ("ValidatingFiles", None),
    "queued": ("Queued", None),
    "running": ("Running", None),
    "paused": ("Paused", None),
    "succeeded": ("Succeeded", "Succeeded"),
    "failed": ("Failed", "Failed"),
    "cancelled": ("Cancelled", "Cancelled"),
}


def method_of(spec: FineTuneJobSpec, backend: OpenAIBackend) -> dict[str, Any] | None:
    """The method with the hyperparameters that are stated."""
    training, dpo = spec.training, spec.method.dpo if spec.method else None
    stated = {
        "n_epochs": int(training.epochs) if training and training.epochs else None,
        "batch_size": training.batch_size if training else None,
        "learning_rate_multiplier": backend.learning_rate_multiplier,
        "beta": dpo.beta if dpo else None,
    }
    hyperparameters = {key: value for key, value in stated.items() if value is not None}
    name = "supervised" if dpo is None else "dpo"
    return {"type": name, name: {"hyperparameters": hyperparameters}}


def view_of(job: FineTuningJob, checkpoints: tuple[Checkpoint, ...] = ()) -> View:
    """A job as we show it."""
    state, end = STATES.get(job.status, (UNKNOWN, None))
    said = job.error.message if job.error and job.error.message else ""
    left = job.estimated_finish - datetime.now(UTC).timestamp() if job.estimated_finish else None
    return View(
        job=job.id,
        created=float(job.created_at),
        state=state,
        end=end,
        message=said or (f"The provider calls its state {job.status!r}." if state == UNKNOWN else ""),
        model=job.fine_tuned_model,
        billed_tokens=job.trained_tokens,
        seconds_left=max(0, round(left)) if left is not None else None,
        checkpoints=checkpoints,
    )


def timestamp(unix: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
