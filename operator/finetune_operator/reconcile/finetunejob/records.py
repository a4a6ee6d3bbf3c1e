"""The attempts as status.attempts has them: which there were, and how each ended."""

from finetune_api.model import MAX_SENTENCE
from finetune_api.pods import Stage
from finetune_api.reasons import Reason
from finetune_api.v1alpha1.finetunejob_status import Attempt as Record
from finetune_operator.reconcile.finetunejob.cause import Ending
from finetune_operator.reconcile.finetunejob.draft import Draft, timestamp

MAX_RECORDS = 32
SUCCEEDED = "Succeeded"
SUSPENDED = "Suspended"


def every(draft: Draft) -> list[Record]:
    """All attempts, oldest first."""
    return draft.status.attempts or []


def of_stage(draft: Draft, stage: Stage) -> list[Record]:
    """Those at a stage."""
    return [record for record in every(draft) if record.stage == stage]


def open_ones(draft: Draft) -> list[Record]:
    """Those that have not ended: one, or after a crash also one whose successor is created already."""
    return [record for record in every(draft) if record.completion_time is None]


def open_one(draft: Draft) -> Record | None:
    """The attempt that has not ended."""
    return next(iter(open_ones(draft)), None)


def has_succeeded(draft: Draft, stage: Stage) -> bool:
    """Whether the newest attempt at a stage has done its work."""
    return succeeded_at(draft, stage) is not None


def succeeded_at(draft: Draft, stage: Stage) -> str | None:
    """When the newest attempt at a stage was seen to have done its work."""
    newest = next(reversed(of_stage(draft, stage)), None)
    return newest.completion_time if newest is not None and newest.outcome == SUCCEEDED else None


def close(draft: Draft, record: Record, outcome: str, message: str, *, counts: bool) -> Record:
    """Write an attempt's end down."""
    end = {"outcome": outcome, "message": message[:MAX_SENTENCE], "counts": counts}
    closed = record.model_copy(update={"completion_time": timestamp(draft.now), **end})
    write_down(draft, closed)
    return closed


def remember(draft: Draft, record: Record, outcome: str | None, message: str | None) -> Record:
    """Keep in an open attempt's record what its pod said while it is being deleted."""
    return _keep(draft, record, outcome=outcome, message=message and message[:MAX_SENTENCE])


def pulling_in_vain_since(draft: Draft, record: Record, *, fails: bool) -> str | None:
    """Keep there since when its image is seen not to be pulled."""
    since = record.pull_failed_at or timestamp(draft.now)
    return _keep(draft, record, pull_failed_at=since if fails else None).pull_failed_at


def _keep(draft: Draft, record: Record, **seen: str | None) -> Record:
    kept = record.model_copy(update=seen)
    if kept != record:
        write_down(draft, kept)
    return kept


def remembered(record: Record) -> Ending | None:
    """The reverse."""
    return Ending(Reason(record.outcome), record.message or "") if record.outcome is not None else None


def write_down(draft: Draft, record: Record) -> None:
    """Put the newest attempt into the status."""
    others = [each for each in every(draft) if (each.stage, each.number) != (record.stage, record.number)]
    draft.update(attempts=_trimmed([*others, record]))


def _trimmed(records: list[Record]) -> list[Record]:
    """As many as the status may have: the oldest go, those first that nothing counts. The newest of a stage stays, as the next
    number follows from it."""
    newest = {record.stage: record.number for record in records}
    spare = [record for record in records if record.number != newest[record.stage]]
    gone = sorted(spare, key=_worth)[: max(len(records) - MAX_RECORDS, 0)]
    return [record for record in records if record not in gone]


def _worth(record: Record) -> int:
    """What is lost with it: of failures the memory that was lacking and the count against maxRetries, of others a limit."""
    return {SUSPENDED: 0, Reason.INTERRUPTED: 1, Reason.INFRASTRUCTURE: 2}.get(record.outcome or "", 3)
