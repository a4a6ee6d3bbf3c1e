"""The adapters of earlier jobs that a job goes on from or is compared with: resolved to their address before the start.

The resolved ones live in the status, so that they survive the jobs that made them; pods are told addresses only.
"""

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.references import EarlierAdapter
from finetune_operator.cache import INITIAL, PREVIOUS
from finetune_operator.reconcile.finetunejob.draft import Draft
from finetune_operator.reconcile.finetunejob.upstream import finished_upstream


def adapters_resolved(draft: Draft) -> bool:
    """Find the addresses, waiting for the jobs that make them. Returns whether the job stands here."""
    if draft.status.start_time is not None:
        return False
    spec, found = draft.job.spec, {}
    stated = {
        INITIAL: spec.adapter.initial if spec.adapter else None,
        PREVIOUS: spec.evaluation.previous if spec.evaluation else None,
    }
    for reference, each in stated.items():
        if each is None or each.job_ref is None:
            found[reference] = each
            continue
        made = finished_upstream(draft, reference, each.job_ref.name, "Adapter")
        if made is None:
            return True
        secret = each.secret_ref or made.secret_ref
        found[reference] = EarlierAdapter(uri=made.uri, digest=made.digest, secret_ref=secret)
    draft.update(initial_adapter=found[INITIAL], previous_adapter=found[PREVIOUS])
    return False


def adapters_by_address(draft: Draft) -> FineTuneJobSpec:
    """The spec with the adapters as they were resolved."""
    spec, status = draft.job.spec, draft.status
    if spec.adapter is not None and status.initial_adapter is not None:
        adapter = spec.adapter.model_copy(update={"initial": status.initial_adapter})
        spec = spec.model_copy(update={"adapter": adapter})
    if spec.evaluation is not None and status.previous_adapter is not None:
        evaluation = spec.evaluation.model_copy(update={"previous": status.previous_adapter})
        spec = spec.model_copy(update={"evaluation": evaluation})
    return spec
