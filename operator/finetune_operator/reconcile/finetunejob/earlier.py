"""The adapters of earlier jobs that a job goes on from or is compared with, and its reward model: resolved to their address before the start.

The resolved ones live in the status, so that they survive the jobs that made them; pods are told addresses only.
"""

from finetune_api.reasons import Reason
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import EarlierAdapter
from finetune_operator.cache import INITIAL, PREVIOUS, REWARD_MODELS, Manifest
from finetune_operator.reconcile.finding import Finding
from finetune_operator.reconcile.finetunejob.checks import method_of
from finetune_operator.reconcile.finetunejob.draft import Draft
from finetune_operator.reconcile.finetunejob.upstream import finished_upstream, read, refuse


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


def reward_model_resolved(draft: Draft) -> bool:
    """The same for the method's reward model, which must be a reward job's. Returns whether the job stands here."""
    method = draft.job.spec.method.rewarded() if draft.job.spec.method else None
    stated = method.reward_model if method else None
    if draft.status.start_time is not None:
        return False
    if stated is None or stated.job_ref is None:
        found = stated and ResolvedBaseModel(uri=stated.uri, digest=stated.digest, secret_ref=stated.secret_ref)
        draft.update(reward_model=found)
        return False
    reference = REWARD_MODELS[method_of(draft.job.spec)]
    name, body = stated.job_ref.name, draft.seen.upstreams.get(reference)
    if body is not None and name != draft.name and not _is_of_reward(draft, reference, name, body):
        return True
    made = finished_upstream(draft, reference, name, None)
    if made is None:
        return True
    secret = stated.secret_ref or made.secret_ref
    draft.update(
        reward_model=ResolvedBaseModel(uri=made.uri, digest=made.digest, secret_ref=secret, job_uid=made.job_uid)
    )
    return False


def _is_of_reward(draft: Draft, reference: str, name: str, body: Manifest) -> bool:
    """Known before that job is done; a refusal then saves its hours."""
    job = read(draft, name, body)
    if job is not None and (method := method_of(job.spec)) != "reward":
        sentence = f"{reference}: FineTuneJob {name} is of method {method}; name a job of method reward."
        refuse(draft, Finding(Reason.UNSUPPORTED, sentence))
        return False
    return job is not None


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
