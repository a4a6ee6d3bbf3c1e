"""The order of a FineTuneJob's steps. Each finds its part done and lets the next one go, or does what is missing and stops.

finished  cancelled  accepted  past_deadline  base_resolved  adapters_resolved  reward_model_resolved  frozen  prepared
not_suspended  trained  concluded
"""

from collections.abc import Callable
from datetime import datetime

from pydantic import ValidationError

from finetune_api.conditions import Condition, upsert
from finetune_api.model import MAX_SENTENCE
from finetune_api.reasons import Reason, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import FineTuneJobStatus
from finetune_operator.cache import UPSTREAM, named_by
from finetune_operator.manifests.delegate import delegation
from finetune_operator.plan import Plan, StatusWrite, ref_of
from finetune_operator.reconcile import unreadable
from finetune_operator.reconcile.finetunejob import earlier, finish, release, stages, start
from finetune_operator.reconcile.finetunejob.checks import adapter_of, backend_of, method_of
from finetune_operator.reconcile.finetunejob.draft import Draft, timestamp
from finetune_operator.reconcile.finetunejob.finalizer import is_held
from finetune_operator.reconcile.finetunejob.observation import Observation

Step = Callable[[Draft], bool]

STEPS: list[Step] = [
    finish.finished,
    finish.cancelled,
    start.accepted,
    finish.past_deadline,
    start.base_resolved,
    earlier.adapters_resolved,
    earlier.reward_model_resolved,
    start.frozen,
    stages.prepared,
    stages.not_suspended,
    stages.trained,
    stages.concluded,
]


def reconcile(seen: Observation, now: datetime) -> Plan:
    """What shall happen next with a FineTuneJob."""
    is_going = "deletionTimestamp" in seen.body["metadata"]
    try:
        job = FineTuneJob.model_validate(seen.body)
    except ValidationError as error:
        if is_going:
            return release.unread(seen.body, unreadable.fields(error))
        return _unreadable(seen, error, now)
    draft = Draft(seen, now, job, job.status or FineTuneJobStatus())
    if is_going:
        release.at_end(draft)
        return draft.plan() if is_held(seen.body) else Plan()
    draft.update(method=_method(job.spec), backend=backend_of(job.spec), base=_base(draft))
    any(step(draft) for step in STEPS)
    return draft.plan()


def _method(spec: FineTuneJobSpec) -> str:
    """Method and adapter; a provider's adapter is its own affair unless the spec states one."""
    if delegation(spec) is not None and spec.adapter is None:
        return method_of(spec)
    return f"{method_of(spec)} {adapter_of(spec)}"


def _base(draft: Draft) -> str:
    base = draft.job.spec.base_model
    if base.from_config is not None:
        return f"{base.from_config.architecture} from random weights"
    return base.uri or f"FineTuneJob {named_by(draft.seen.body, UPSTREAM)}"


def _unreadable(seen: Observation, error: ValidationError, now: datetime) -> Plan:
    """Written under another version of the definition: say which fields, and leave everything else alone."""
    message = unreadable.message(error)[:MAX_SENTENCE]
    status = seen.body.get("status") or {}
    conditions = [Condition.model_validate(condition) for condition in status.get("conditions") or []]
    for kind, value in ((Stage.ACCEPTED, "False"), (Stage.STALLED, "True")):
        new = {
            "type": kind,
            "status": value,
            "reason": Reason.UNSUPPORTED,
            "message": message,
            "lastTransitionTime": timestamp(now),
            "observedGeneration": seen.body["metadata"].get("generation", 0),
        }
        conditions = upsert(conditions, Condition.model_validate(new))
    written = {
        **status,
        "observedGeneration": seen.body["metadata"].get("generation", 0),
        "conditions": [condition.wire() for condition in conditions],
        "state": str(Reason.UNSUPPORTED),
        "message": message,
    }
    return Plan(statuses=(StatusWrite(ref_of(seen.body), written),))
