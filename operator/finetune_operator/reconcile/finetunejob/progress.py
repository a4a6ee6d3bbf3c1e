"""What a running pod reports -> status: percentage, loss, time left, checkpoints. At most every few seconds per job."""

from typing import Literal

from finetune_api.conditions import as_reason
from finetune_api.pods import Report
from finetune_api.pods import Stage as PodStage
from finetune_api.reasons import Reason, Stage
from finetune_api.v1alpha1.finetunejob_status import Attempt as Record
from finetune_api.v1alpha1.finetunejob_status import TrainerStatus
from finetune_api.v1alpha1.provider import ProviderStatus
from finetune_operator.manifests.delegate import delegation
from finetune_operator.reconcile.finetunejob.draft import Draft, parse_time, timestamp

WRITE_SECONDS = 5.0
"""A status write costs every watcher of the job; progress is worth one in five seconds."""
NOT_AS_IT_SHOULD_BE = "TrainingWarning"
"""Reason of the Event about a report's message."""
AT_PROVIDER = "AtProvider"
"""Where a provider's state is no reason that a condition can have."""
MICRO_BATCH = "training.microBatchSize"
ONGOING: dict[PodStage, tuple[str, Stage]] = {
    "Prepare": ("Preparing", Stage.DATA_VALIDATED),
    "Train": ("Training", Stage.RUNNING),
    "Collect": ("Collecting", Stage.RUNNING),
}
"""State and condition in which a stage's course shows."""
READABLE = 1e6
"""A loss beyond is shown by its first digits."""
LOSS_METRICS = ("loss", "train_loss")


def running(draft: Draft, record: Record) -> None:
    """The attempt's pod runs: say so, with its newest report."""
    state, stage = ONGOING[record.stage]
    if record.stage == "Train":
        _take_report(draft, record)
        if _steps_are_done(draft, record):
            state = "Evaluating"
        elif draft.status.provider is not None and draft.status.provider.state not in (None, "Running"):
            said = str(draft.status.provider.state)  # Queued, WaitingForQuota, Paused …
            state = "Evaluating" if said == "Succeeded" else said
    message = _sentence(draft, record, state)
    status: Literal["Unknown", "True"] = "Unknown" if stage is Stage.DATA_VALIDATED else "True"
    draft.condition(stage, status, *as_reason(state, AT_PROVIDER, message))
    draft.stand(state, message)


def _steps_are_done(draft: Draft, record: Record) -> bool:
    """Whether this attempt has reported 100 %."""
    said = _said(draft, record)
    return said is not None and said.progress_percentage == 100


def _said(draft: Draft, record: Record) -> TrainerStatus | None:
    """What this attempt, and not an earlier one, has reported."""
    said = draft.status.trainer_status
    if said is None or said.last_updated_time is None or record.start_time is None:
        return None
    return said if parse_time(said.last_updated_time) >= parse_time(record.start_time) else None


def _take_report(draft: Draft, record: Record) -> None:
    received = draft.seen.report
    if received is None or record.start_time is None or received.at < parse_time(record.start_time):
        return  # of an earlier attempt
    written = draft.status.trainer_status.last_updated_time if draft.status.trainer_status else None
    if written is not None and draft.holds(Stage.RUNNING):
        wait = WRITE_SECONDS - draft.since(written)
        if wait > 0:
            draft.later(wait)
            return
    if written == timestamp(received.at):
        return
    show(draft, received.report, timestamp(received.at))


def show(draft: Draft, report: Report, at: str) -> None:
    """Put a report into the status and its columns."""
    said = report.trainer_status
    before = draft.status.trainer_status
    if said.message and said.message != (before.message if before else None):
        draft.warn(NOT_AS_IT_SHOULD_BE, said.message)
    draft.update(
        trainer_status=said.model_copy(update={"last_updated_time": at}),
        progress=f"{said.progress_percentage}%" if said.progress_percentage is not None else None,
        loss=_loss(said) or draft.status.loss,
        eta=duration(said.estimated_remaining_seconds),
    )
    if report.checkpoints is not None:
        draft.update(checkpoints=report.checkpoints)
    if report.provider is not None:
        _tell_state(draft, report.provider)
        draft.update(provider=report.provider)
    if report.resumed_from_step is not None:
        draft.update(resumed_from_step=report.resumed_from_step)


def _tell_state(draft: Draft, now: ProviderStatus) -> None:
    """An Event for each state a provider's job is seen in."""
    before = draft.status.provider.state if draft.status.provider else None
    if now.state is not None and now.state != before:
        message = f"The provider's job {now.job} is {now.state}. {now.message or ''}".strip()
        draft.note(*as_reason(now.state, AT_PROVIDER, message))


def _loss(said: TrainerStatus) -> str | None:
    values = {metric.name: metric.value for metric in said.metrics or []}
    text = next((values[name] for name in LOSS_METRICS if name in values), None)
    if text is None:
        return None
    try:
        return figure(float(text))
    except ValueError:
        return text[:32]


def figure(value: float) -> str:
    """A loss for the column, which takes no hundred digits: one that explodes has them."""
    return f"{value:.3f}" if abs(value) < READABLE else f"{value:.3g}"


def duration(seconds: int | None) -> str | None:
    """Seconds as people say them: 45s, 12m, 3h 5m."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds}s"
    minutes = seconds // 60
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h {minutes % 60}m"


def divisor(draft: Draft, record: Record) -> int:
    """By what an attempt divides the micro-batch: twice as much after each time memory ran out."""
    if record.stage != "Train":
        return 1
    before = [each for each in draft.status.attempts or [] if each.stage == "Train" and each.number < record.number]
    return int(2 ** sum(each.outcome == Reason.OUT_OF_MEMORY for each in before))


def after_memory_ran_out(draft: Draft, record: Record) -> str:
    """What the next attempt does about it, where the plan leaves anything to halve."""
    plan = draft.status.plan
    planned = next((each.value for each in (plan and plan.choices) or [] if each.field == MICRO_BATCH), None)
    training = draft.job.spec.training
    rows = (training and training.micro_batch_size) or int(planned or 0)
    if rows and divisor(draft, record) >= rows:
        return " A micro-batch of one row cannot be halved: the next attempt is made as this one was."
    return " The next attempt halves the micro-batch and accumulates twice as often."


def goes_on_from(draft: Draft, record: Record) -> str:
    """Where the next attempt begins, of a training that did not say so itself, as far as it has reported."""
    last = draft.seen.report.report.checkpoints if draft.seen.report else None
    step = max((each.step for each in last or draft.status.checkpoints or []), default=None)
    if step is None or record.stage != "Train" or delegation(draft.job.spec) is not None:
        return ""
    return f" The next attempt goes on from step {step}, the newest checkpoint that was reported, or from a later one."


def introduction(draft: Draft, record: Record) -> str:
    """Which attempt it is, and what it does differently; nothing for the first."""
    if record.number == 1:
        return ""
    parts = [f"Attempt {record.number}"]
    if (by := divisor(draft, record)) > 1:
        parts.append(f"micro-batch divided by {by}, as memory ran out")
    return ", ".join(parts) + ": "


def _sentence(draft: Draft, record: Record, state: str) -> str:
    what = {
        "Preparing": "The data is being read and checked.",
        "Training": "The train pod runs.",
        "Evaluating": "Training is done; base and tuned model are being compared and the artifact stored.",
        "Collecting": "The result is read from the artifact's manifest, as the train pod's summary was lost.",
    }.get(state) or ""
    provider = draft.status.provider
    if record.stage == "Train" and provider is not None and provider.job is not None and state != "Evaluating":
        what = f"The provider's job {provider.job} is {provider.state}. {provider.message or ''}".strip()
    if record.number > 1 and draft.status.resumed_from_step is not None:
        what = f"resumed from step {draft.status.resumed_from_step}. {what}"
    said = _said(draft, record)
    if said is not None and said.message:
        what += f" {said.message}"
    return introduction(draft, record) + what
