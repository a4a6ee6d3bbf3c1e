"""Whether and when the validation rows are asked while training, and what follows from it. Pure; part of the plan."""

from typing import Any

from finetune_api.matrix import course_refusal
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.training import TrainingSpec
from finetune_trainer.choices import Choices
from finetune_trainer.sizing import Situation

NO_ROWS = (
    "needs validation rows, and there are none: set dataset.validation or dataset.split.validation, or leave it out"
)

ONE_ANSWER = (
    "method kto with loss Kto compares the answers of the validation rows, and one is none: hold out more rows, or leave out "
    "training.earlyStopping, publishBest and evaluateEverySteps"
)


def course(seen: Situation, steps: int, every: int, choices: Choices) -> dict[str, Any]:
    """Members of ResolvedTraining; ``every`` is checkpointEverySteps. Raises Failure where there are no rows to measure on."""
    stated = seen.spec.training or TrainingSpec()
    asked = stated.asks_validation_rows()
    if not asked:
        return {}
    sentence = course_refusal(seen.method, asked[0])
    if sentence is not None:  # the operator refuses it before; an image may be older
        raise Failure(Reason.CONFIG_INVALID, sentence)
    rows, kto = seen.lengths.get("validation"), seen.spec.method.kto if seen.spec.method else None
    if not rows:
        raise Failure(Reason.DATA_INVALID, f"training.{asked[0]} {NO_ROWS}")
    if kto is not None and kto.loss_type != "ApoZeroUnpaired" and len(rows.tokens) < 2:
        raise Failure(Reason.DATA_INVALID, ONE_ANSWER)
    stopping = stated.early_stopping
    frequency = choices.take(
        "training.evaluateEverySteps", stated.evaluate_every_steps, min(every, steps), "with every checkpoint"
    )
    found: dict[str, Any] = {
        "evaluate_every_steps": frequency,
        "publish_best": bool(stated.publish_best) or stopping is not None,
    }
    if stopping is not None:
        found["patience"] = stopping.patience
        delta = choices.take("training.earlyStopping.minDelta", stopping.min_delta, 0.0, "every gain counts")
        found["min_delta"] = delta
    return found
