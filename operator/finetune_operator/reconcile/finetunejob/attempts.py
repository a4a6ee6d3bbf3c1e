"""Runs of a stage: each is a Job of its own name, created once; another one follows when that can help.

Every attempt is written into status.attempts with its end, so that the next decision needs nothing but the status and the
Job it names. A new one is created only after no pod of the job is alive: two must never write the same folder.
"""

from finetune_api.pods import Stage as PodStage
from finetune_api.pods import Summary
from finetune_api.reasons import Reason, Stage
from finetune_api.v1alpha1.finetunejob_status import Attempt as Record
from finetune_operator.backends import BACKENDS
from finetune_operator.cache import ATTEMPT_LABEL, STAGE_LABEL, Manifest, labels_of
from finetune_operator.manifests.training import Attempt, attempt_name, nodes_of
from finetune_operator.plan import ref_of
from finetune_operator.reconcile.finetunejob import progress, records
from finetune_operator.reconcile.finetunejob.cause import (
    UNCOUNTED,
    Ending,
    ending,
    has_ended_by_itself,
    has_started,
    is_alive,
    is_disrupted,
    is_over,
    last_words,
)
from finetune_operator.reconcile.finetunejob.checks import backend_of
from finetune_operator.reconcile.finetunejob.draft import Draft, timestamp
from finetune_operator.reconcile.finetunejob.records import SUCCEEDED, SUSPENDED
from finetune_operator.reconcile.finetunejob.start import frozen_config
from finetune_operator.reconcile.finetunejob.waiting import ABOUT_TO_START, pulled_in_vain, why_not_started
from finetune_operator.reconcile.obstacles import PATIENCE_SECONDS

MAX_RETRIES = 3
MAX_LOST = 5
MAX_INTERRUPTED = 20
STARTING = "Starting"
RETRYING = "Retrying"
FIRST_DELAY_SECONDS = 5.0
LONGEST_DELAY_SECONDS = 120.0
LOST = Ending(Reason.INFRASTRUCTURE, "The Job was deleted while it ran.")
NO_RESULT = Ending(
    Reason.INTERNAL_ERROR,
    "The pod exited with code 0 and left no readable summary: it was lost, or the image does not keep the pod contract.",
)


def advance(draft: Draft, stage: PodStage) -> Summary | None:
    """Take a stage one step further; returns its pod's summary in the round in which it succeeds.

    A success without a readable summary is recorded too (:func:`records.has_succeeded`) and returns None.
    """
    last = next(reversed(records.of_stage(draft, stage)), None)
    if last is not None and last.completion_time is None:
        end = _end_of(draft, last)
        if draft.reads:
            return None
        if end is None:
            end = _go_on(draft, last)
        if end is None:
            return None
        if end.reason is None and not _has_result(stage, end.summary):
            end = NO_RESULT
        last = close(draft, last, end)
        if last.outcome == SUCCEEDED:
            return end.summary
        if not _may_retry(draft, last, end):
            return None
    _open(draft, stage, last)
    return None


def _has_result(stage: PodStage, summary: Summary | None) -> bool:
    """Whether a pod that exited 0 said what came out; training's result stands in its manifest too."""
    if stage == "Train":
        return True
    return summary is not None and (summary.prepared if stage == "Prepare" else summary.trained) is not None


def taken_up(draft: Draft, stage: PodStage) -> bool:
    """Write an attempt down whose Job was created and whose record was not, as the spec changed in between or the operator
    ended. Returns whether there was one."""
    number = 1 + max((record.number for record in records.of_stage(draft, stage)), default=0)
    job = draft.seen.jobs.get(attempt_name(draft.name, draft.uid, stage, number))
    if job is None:
        return False
    records.write_down(draft, Record(stage=stage, number=number, start_time=job["metadata"]["creationTimestamp"]))
    return True


def has_trained(draft: Draft) -> bool:
    """Whether training has ended, well or not, and what came of it is still to be looked at."""
    record = records.open_one(draft)
    if record is None or record.stage != "Train":
        return records.has_succeeded(draft, "Train")
    return has_ended(draft, record)


def has_ended(draft: Draft, record: Record) -> bool:
    """Whether an open attempt has ended, which is not written down yet."""
    return _job_of(draft, record) is not None and _end_of(draft, record) is not None


def _job_of(draft: Draft, record: Record) -> Manifest | None:
    return draft.seen.jobs.get(attempt_name(draft.name, draft.uid, record.stage, record.number))


def _end_of(draft: Draft, record: Record) -> Ending | None:
    """How an attempt ended; None: it runs, or its pod must be read first.

    Watches of Jobs and pods run apart: a Job may be seen to have ended before its pod is, and that pod is not lost.
    """
    job = _job_of(draft, record)
    if job is None:
        return LOST
    pods = pods_of(draft, record)
    if is_over(job) and not (pods and all(map(has_ended_by_itself, pods))):
        pods = draft.answer(ref_of(job)._replace(api_version="v1", kind="Pod")) or []
    return None if draft.reads else ending(job, pods, records.remembered(record))


def pods_of(draft: Draft, record: Record) -> list[Manifest]:
    """The pods of an attempt."""
    wanted = (record.stage.lower(), str(record.number))
    return [
        pod for pod in draft.seen.pods if (labels_of(pod).get(STAGE_LABEL), labels_of(pod).get(ATTEMPT_LABEL)) == wanted
    ]


def close(draft: Draft, record: Record, end: Ending) -> Record:
    """Write an attempt's end down."""
    message = end.message if end.message == record.message else _in_full(draft, record, end)
    return records.close(draft, record, str(end.reason or SUCCEEDED), message, counts=end.counts)


def _in_full(draft: Draft, record: Record, end: Ending) -> str:
    """What is said of an end, with what the next attempt makes of it."""
    if end.reason == Reason.OUT_OF_MEMORY and record.stage == "Train":
        return end.message + progress.after_memory_ran_out(draft, record)
    if end.summary is None and end.reason in UNCOUNTED:
        return end.message + progress.goes_on_from(draft, record)
    return end.message


def stop(draft: Draft, outcome: str, message: str) -> None:
    """End what is open from outside: its Job goes, its pod is told to stop and commits a checkpoint."""
    for record in records.open_ones(draft):
        records.close(draft, record, outcome, message, counts=False)
    delete_jobs(draft)


def delete_jobs(draft: Draft) -> None:
    """Delete every Job that may still have a live pod."""
    for job in draft.seen.jobs.values():
        if labels_of(job).get(STAGE_LABEL) == "cancel":
            continue
        if not is_over(job) and "deletionTimestamp" not in job["metadata"]:
            draft.delete.append(ref_of(job))


def _go_on(draft: Draft, record: Record) -> Ending | None:
    """The attempt runs, or is about to; or it is ended here, as its image cannot be pulled."""
    pods = pods_of(draft, record)
    record = _listen(draft, record, pods)
    pods = [pod for pod in pods if is_alive(pod) or not is_disrupted(pod)]  # its Job replaces an evicted one
    current = [pod for pod in pods if is_alive(pod)]
    if len(pods) >= nodes_of(draft.job.spec, record.stage) and all(map(has_started, current)):
        records.pulling_in_vain_since(draft, record, fails=False)
        progress.running(draft, record)
        return None
    age = draft.since(record.start_time or timestamp(draft.now))
    job = draft.seen.jobs[attempt_name(draft.name, draft.uid, record.stage, record.number)]
    reason, message = why_not_started(draft, job, current, age)
    message = progress.introduction(draft, record) + message
    end = pulled_in_vain(draft, record, reason, message)
    if end is not None:
        delete_jobs(draft)
    _say(draft, record.stage, reason, message)
    return end


def _listen(draft: Draft, record: Record, pods: list[Manifest]) -> Record:
    """Keep what a pod says that is being deleted; where another one has taken its place, nothing."""
    heard = last_words(pods)
    if heard is not None:
        return records.remember(draft, record, str(heard.reason), _in_full(draft, record, heard))
    return records.remember(draft, record, None, None) if pods else record


def _may_retry(draft: Draft, record: Record, end: Ending) -> bool:
    """Whether another attempt follows; else the job fails."""
    reason = end.reason or Reason.INTERNAL_ERROR
    where = f"{record.stage} attempt {record.number}"
    if not end.can_retry:
        _give_up(draft, record.stage, reason, end.message)
        return False
    of_stage = records.of_stage(draft, record.stage)
    allowed = MAX_RETRIES if draft.job.spec.max_retries is None else draft.job.spec.max_retries
    if end.counts and sum(each.counts and each.outcome != SUCCEEDED for each in of_stage) > allowed:
        _give_up(draft, record.stage, reason, f"{end.message} ({where}; maxRetries {allowed} is used up)")
        return False
    for uncounted, limit in ((Reason.INFRASTRUCTURE, MAX_LOST), (Reason.INTERRUPTED, MAX_INTERRUPTED)):
        if reason == uncounted and sum(each.outcome == uncounted for each in of_stage) > limit:
            _give_up(draft, record.stage, Reason.INFRASTRUCTURE, f"{end.message} ({where}; more than {limit} times)")
            return False
    draft.warn(reason, f"{where} ended: {record.message}")
    return True


def _give_up(draft: Draft, stage: PodStage, reason: Reason, message: str) -> None:
    """The job fails; where only the reading of its result did, that is there all the same."""
    if stage == "Collect":
        message = f"Trained, but the result in {draft.folder} could not be read: {message}"
    draft.fail(reason, message)


def _open(draft: Draft, stage: PodStage, last: Record | None) -> None:
    """Create the next attempt, once its time has come and nothing of an earlier one is alive."""
    number = last.number + 1 if last else 1
    is_created = attempt_name(draft.name, draft.uid, stage, number) in draft.seen.jobs  # and not yet written down
    own = {STAGE_LABEL: stage.lower(), ATTEMPT_LABEL: str(number)}
    alive = [
        pod for pod in draft.seen.pods if is_alive(pod) and not (is_created and own.items() <= labels_of(pod).items())
    ]
    wait = _delay(draft, last)
    if alive or wait > 0:
        if wait > 0:
            draft.later(wait)
        _say_retrying(draft, stage, last, alive)
        return
    if number > 100:
        draft.fail(Reason.INFRASTRUCTURE, "A stage has been started 100 times; delete the job and create it anew.")
        return
    record = Record(stage=stage, number=number, start_time=timestamp(draft.now))
    attempt = Attempt(stage, number, progress.divisor(draft, record))
    draft.create += BACKENDS[backend_of(draft.job.spec)](frozen_config(draft), attempt, draft.seen.settings)
    records.write_down(draft, record)
    _say(draft, stage, STARTING, progress.introduction(draft, record) + ABOUT_TO_START)
    draft.later(PATIENCE_SECONDS)


def _say(draft: Draft, stage: PodStage, reason: str, message: str) -> None:
    """Why the stage's pod does not run."""
    ongoing, condition = progress.ONGOING[stage]
    draft.condition(condition, "Unknown" if condition is Stage.DATA_VALIDATED else "False", reason, message)
    draft.update(eta=None)
    waiting = STARTING if stage == "Train" else ongoing
    draft.stand(reason if reason == RETRYING else waiting, message)


def _say_retrying(draft: Draft, stage: PodStage, last: Record | None, alive: list[Manifest]) -> None:
    message = f"{last.stage} attempt {last.number} ended ({last.outcome}): {last.message}" if last else ""
    if alive:
        message = f"Waits until pod {alive[0]['metadata']['name']} has ended. {message}"
    _say(draft, stage, RETRYING, message)


def _delay(draft: Draft, last: Record | None) -> float:
    """Seconds until the next attempt; longer after each failure in a row, none after a suspension."""
    if last is None or last.completion_time is None or last.outcome in (SUCCEEDED, SUSPENDED):
        return 0.0
    of_stage = [each for each in records.of_stage(draft, last.stage) if each.outcome != SUSPENDED]
    delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** (len(of_stage) - 1))
    return delay - draft.since(last.completion_time)
