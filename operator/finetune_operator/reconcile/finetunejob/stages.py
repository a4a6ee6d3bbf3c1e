"""The stages of a started job, in order, and what each one's success means for the conditions."""

from finetune_api.pods import Prepared, Summary, Trained
from finetune_api.reasons import Reason, Stage
from finetune_api.v1alpha1.finetunejob_status import DatasetStatus, EvaluationStatus, PlanStatus
from finetune_operator.manifests.delegate import delegation
from finetune_operator.reconcile.finetunejob import attempts, progress, records
from finetune_operator.reconcile.finetunejob.cause import is_alive
from finetune_operator.reconcile.finetunejob.draft import Draft
from finetune_operator.reconcile.finetunejob.start import frozen_config

SHOWN = "DryRun"
"""Reason of a Complete job that sent nothing."""
BESIDES = ("skipped_batch", "tracking_error")
"""Sentences of a training that went well all the same; in the status, and at the end of that of Complete."""


def prepared(draft: Draft) -> bool:
    """Data and plan. Returns whether the job stands here."""
    if draft.holds(Stage.PLANNED):
        return False
    summary = attempts.advance(draft, "Prepare")
    if draft.status.error is not None:
        error = draft.status.error
        draft.condition(Stage.DATA_VALIDATED, "False", error.code, error.message)
    if summary is None or summary.prepared is None:
        return True
    _take_prepared(draft, summary.prepared)
    return False


def _take_prepared(draft: Draft, result: Prepared) -> None:
    rows = ", ".join(f"{split.rows} {split.name}" for split in result.dataset.splits)
    left_out = f"; left out: {', '.join(_left_out(result.dataset))}"
    steps = "" if result.plan.steps is None else f"{result.plan.steps} optimiser steps; "
    mixed = f", of which {result.dataset.mixed} are general text" if result.dataset.mixed else ""
    draft.update(dataset=result.dataset, plan=result.plan)
    draft.condition(Stage.DATA_VALIDATED, "True", "Valid", f"{result.dataset.format} rows: {rows}{mixed}{left_out}.")
    draft.condition(
        Stage.PLANNED,
        "True",
        "Planned",
        f"{steps}{len(result.plan.choices)} values were left out and decided (status.plan).",
    )


def _left_out(dataset: DatasetStatus) -> list[str]:
    """Kinds of rows that were left out; the usual ones also where there were none."""
    usual = [f"{dataset.duplicates} duplicates", f"{dataset.invalid} invalid"]
    others = {
        "near duplicates": dataset.near_duplicates,
        "too short or too long": dataset.out_of_range,
        "contaminated": dataset.contaminated,
    }
    return usual + [f"{rows} {kind}" for kind, rows in others.items() if rows]


def not_suspended(draft: Draft) -> bool:
    """spec.suspend ends the running attempt; its pod commits a checkpoint. Returns whether the job stands here."""
    may_be_submitted = delegation(draft.job.spec) is not None and bool(records.of_stage(draft, "Train"))
    if draft.job.spec.suspend and may_be_submitted:
        draft.condition(
            Stage.SUSPENDED,
            "False",
            Reason.UNSUPPORTED,
            "A provider's job cannot be suspended; it goes on. Set cancel to end it.",
        )
        return False
    if not draft.job.spec.suspend:
        if draft.holds(Stage.SUSPENDED):
            draft.condition(Stage.SUSPENDED, "False", "Resumed", "Goes on from the last committed checkpoint.")
        return False
    if attempts.has_trained(draft):
        return False  # nothing is left to stop
    if attempts.taken_up(draft, "Train"):
        return True  # stopped in the next round, so that its number is known to be taken even after a crash in between
    alive = [pod["metadata"]["name"] for pod in draft.seen.pods if is_alive(pod)]
    attempts.stop(draft, records.SUSPENDED, "Stopped by spec.suspend.")
    message = "Stopped by spec.suspend; set it to false to go on from the last committed checkpoint."
    if alive:
        message = f"Pod {alive[0]} is committing a checkpoint. {message}"
    draft.condition(Stage.SUSPENDED, "True", "Suspended", message)
    draft.condition(Stage.RUNNING, "False", "Suspended", message)
    draft.update(eta=None)
    draft.stand("Suspended", message)
    return True


def trained(draft: Draft) -> bool:
    """Training, evaluation and publishing. Returns whether the job stands here."""
    if draft.status.artifact is not None:
        return False
    summary = None
    if not records.has_succeeded(draft, "Train"):
        summary = attempts.advance(draft, "Train")
    if records.has_succeeded(draft, "Train") and frozen_config(draft).dry_run:
        _take_shown(draft, summary)
        return True
    if (summary is None or summary.trained is None) and records.has_succeeded(draft, "Train"):
        summary = attempts.advance(draft, "Collect")
    if summary is None or summary.trained is None:
        return True
    _take_trained(draft, summary.trained)
    return False


def _take_shown(draft: Draft, summary: Summary | None) -> None:
    """A dry run did what it was made for: the job is Complete, without an artifact."""
    shown = summary.shown if summary else None
    request = f"The request would be: {shown.message}" if shown else "The pod's log has the request."
    draft.succeed(f"Dry run, nothing was sent. {request}", reason=SHOWN)


def _take_trained(draft: Draft, result: Trained) -> None:
    evaluation = result.evaluation
    draft.update(
        artifact=result.artifact, evaluation=evaluation, trained_tokens=result.trained_tokens, progress="100%", eta=None
    )
    if result.provider is not None:
        draft.update(provider=result.provider)
        last = draft.seen.report  # checkpoints are named at the end only, and there is no room for them in a summary
        if last is not None and last.report.checkpoints is not None:
            draft.update(checkpoints=last.report.checkpoints)
    if result.validation is not None:
        draft.update(validation=result.validation)
    draft.update(**{name: said for name in BESIDES if (said := getattr(result, name)) is not None})
    if draft.status.plan is not None:
        draft.update(plan=_completed(draft.status.plan, result))
    if result.loss is not None:
        draft.update(loss=progress.figure(result.loss))
    draft.condition(Stage.ARTIFACT_STORED, "True", "Stored", f"{result.artifact.uri} ({result.artifact.digest})")
    if evaluation is None:
        draft.condition(
            Stage.EVALUATED, "False", "NotEvaluated", "There are no test rows: set dataset.test or dataset.split.test."
        )
    else:
        draft.condition(Stage.EVALUATED, "True", "Evaluated", f"{_figures(evaluation)}.")
    verdicts = (evaluation.gate if evaluation else None) or []
    if result.gate_passed:
        message = " ".join(verdict.message for verdict in verdicts) or "The spec has no gate."
        draft.condition(Stage.GATE_PASSED, "True", "GatePassed" if verdicts else "NoGate", message)
    else:
        message = " ".join(verdict.message for verdict in verdicts if not verdict.passed) or "The gate did not hold."
        draft.condition(Stage.GATE_PASSED, "False", Reason.GATE_FAILED, message)


def _figures(evaluation: EvaluationStatus) -> str:
    """The tuned model's, on the rows held out, where there are some, and suite by suite."""
    found = [(f"{evaluation.split} rows", evaluation.rows, evaluation.tuned)] if evaluation.rows else []
    found += [(f"rows of suite {each.name}", each.rows, each.tuned) for each in evaluation.suites or []]
    return "; ".join(
        f"On {rows} {what}: {', '.join(f'{metric} {value:.4g}' for metric, value in tuned.items())}"
        for what, rows, tuned in found
    )


def _completed(plan: PlanStatus, result: Trained) -> PlanStatus:
    """The plan with what only the training could tell."""
    found = result.learning_rate
    choices = [found if found and each.field == found.field else each for each in plan.choices]
    return plan.model_copy(update={"choices": choices, "measured": result.peak_memory})


def concluded(draft: Draft) -> bool:
    """Complete, or Failed by the gate. The job stands here for good."""
    artifact = draft.status.artifact
    assert artifact is not None
    if draft.holds(Stage.GATE_PASSED):
        said = [f"; {sentence}" for name in BESIDES if (sentence := getattr(draft.status, name))]
        draft.succeed(f"{artifact.kind} stored at {artifact.uri}" + "".join(said))
    else:
        draft.fail(
            Reason.GATE_FAILED, f"The gate did not hold; the artifact is kept and marked. {_gate_message(draft)}"
        )
    return True


def _gate_message(draft: Draft) -> str:
    return next(condition.message for condition in draft.conditions if condition.type == Stage.GATE_PASSED)
