"""A Vertex tuning job as we show it. Pure."""

from datetime import datetime

from google.genai import types

from finetune_api.v1alpha1.finetunejob_status import Checkpoint
from finetune_delegate.provider import UNKNOWN, End, View

STATES: dict[str, tuple[str, End | None]] = {
    "JOB_STATE_QUEUED": ("Queued", None),
    "JOB_STATE_PENDING": ("Queued", None),
    "JOB_STATE_RUNNING": ("Running", None),
    "JOB_STATE_UPDATING": ("Running", None),
    "JOB_STATE_PAUSED": ("Paused", None),
    "JOB_STATE_CANCELLING": ("Cancelling", None),
    "JOB_STATE_SUCCEEDED": ("Succeeded", "Succeeded"),
    "JOB_STATE_FAILED": ("Failed", "Failed"),
    "JOB_STATE_EXPIRED": ("Expired", "Failed"),
    "JOB_STATE_PARTIALLY_SUCCEEDED": ("PartiallySucceeded", "Failed"),
    "JOB_STATE_CANCELLED": ("Cancelled", "Cancelled"),
}
DETAILS = {
    "TUNING_JOB_STATE_WAITING_FOR_QUOTA": "WaitingForQuota",
    "TUNING_JOB_STATE_WAITING_FOR_CAPACITY": "WaitingForCapacity",
    "TUNING_JOB_STATE_PROCESSING_DATASET": "ProcessingDataset",
    "TUNING_JOB_STATE_POST_PROCESSING": "PostProcessing",
}
"""Of a running job."""


def view_of(job: types.TuningJob) -> View:
    """The job, its checkpoints with it."""
    named = _word(job.state)
    state, end = STATES.get(named, (UNKNOWN, None))
    if state == "Running":
        state = DETAILS.get(_word(job.tuning_job_state), state)
    said = (job.error.message if job.error else None) or ""
    tuned = job.tuned_model
    billed, steps = _statistics(job)
    return View(
        job=str(job.name),
        created=job.create_time.timestamp() if job.create_time else 0.0,
        state=state,
        end=end,
        message=said or (f"The provider calls its state {named!r}." if state == UNKNOWN else ""),
        model=tuned.model if tuned else None,
        endpoint=tuned.endpoint if tuned else None,
        billed_tokens=billed,
        steps=steps,
        checkpoints=tuple(_checkpoints(tuned, job.end_time or job.update_time) if tuned else ()),
    )


def _word(state: object) -> str:
    return str(getattr(state, "value", state) or "JOB_STATE_UNSPECIFIED")


def _statistics(job: types.TuningJob) -> tuple[int | None, int | None]:
    stats = job.tuning_data_stats
    of = stats and (stats.supervised_tuning_data_stats or stats.preference_optimization_data_stats)
    if not of:
        return None, None
    billed = getattr(of, "total_billable_token_count", None)
    return int(billed) if billed is not None else None, of.tuning_step_count


def _checkpoints(tuned: types.TunedModel, at: datetime | None) -> list[Checkpoint]:
    """Vertex says no time of a checkpoint; the job's last one stands for it."""
    time = (at or datetime.fromtimestamp(0)).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = [
        Checkpoint(step=each.step or 0, uri=f"vertex://{each.endpoint}", created_at=time)
        for each in tuned.checkpoints or []
        if each.endpoint
    ]
    return sorted(found, key=lambda each: each.step)[-16:]
