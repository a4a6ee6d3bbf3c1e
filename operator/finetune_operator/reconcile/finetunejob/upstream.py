"""The jobs another one waits for: whether they are done, and what they made."""

from typing import Literal, NamedTuple

from pydantic import ValidationError

from finetune_api.conditions import find
from finetune_api.model import Digest, Uri
from finetune_api.reasons import Reason, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.finetunejob_status import FineTuneJobStatus
from finetune_api.v1alpha1.references import SecretRef
from finetune_operator.cache import Manifest
from finetune_operator.reconcile import unreadable
from finetune_operator.reconcile.finding import Finding
from finetune_operator.reconcile.finetunejob.draft import Draft

LOOK_AGAIN_SECONDS = 15.0
"""A ServiceAccount is not watched: after a refusal it is read again."""
WAITING_FOR_JOB = "WaitingForJob"
MADE = {"Adapter": "an adapter", "Model": "a whole model", "Endpoint": "a model that lives at a provider"}
TAKES = {
    "Model": "a whole model: a job with adapter Full. An adapter is served on its base by an AdapterDeployment.",
    "Adapter": "an adapter: a job with adapter LoRA or another of its kin.",
}
"""What a reference is for, as the end of a sentence about a job that made something else."""


class Made(NamedTuple):
    """What a job made, and who may read it."""

    uri: Uri
    digest: Digest | None
    secret_ref: SecretRef | None
    job_uid: str


def refuse(draft: Draft, finding: Finding) -> None:
    """Accepted=False: nothing happens until the spec changes."""
    draft.condition(Stage.ACCEPTED, "False", finding.reason, finding.message)
    draft.condition(Stage.STALLED, "True", finding.reason, finding.message)
    draft.stand(finding.reason, finding.message)
    if finding.reason == Reason.NOT_ALLOWED:
        draft.later(LOOK_AGAIN_SECONDS)


def finished_upstream(draft: Draft, reference: str, name: str, kind: Literal["Model", "Adapter"] | None) -> Made | None:
    """What the job that ``reference`` names has made, of a ``kind`` or any; None: this one stands here, and says why."""
    if name == draft.name:
        refuse(draft, Finding(Reason.UNSUPPORTED, f"{reference} names this job itself; name the job it starts from."))
        return None
    body = draft.seen.upstreams.get(reference)
    if body is None:
        _wait(draft, f"Waits for FineTuneJob {name}, which does not exist in namespace {draft.namespace}.")
        return None
    upstream = read(draft, name, body)
    if upstream is None or not _is_complete(draft, name, upstream.status):
        return None
    assert upstream.status is not None
    artifact = upstream.status.artifact
    assert artifact is not None
    if kind is not None and artifact.kind != kind:
        sentence = f"FineTuneJob {name} made {MADE[artifact.kind]}; {reference} takes {TAKES[kind]}"
        refuse(draft, Finding(Reason.UNSUPPORTED, sentence))
        return None
    return Made(artifact.uri, artifact.digest, upstream.spec.output.secret_ref, str(body["metadata"]["uid"]))


def read(draft: Draft, name: str, body: Manifest) -> FineTuneJob | None:
    """A job this one waits for; None: it was stored under another version of the definition, and this one says so."""
    try:
        return FineTuneJob.model_validate(body)
    except ValidationError as error:
        _wait(draft, f"Waits for FineTuneJob {name}, which cannot be read ({unreadable.fields(error)}).")
        return None


def _is_complete(draft: Draft, name: str, status: FineTuneJobStatus | None) -> bool:
    conditions = (status and status.conditions) or []
    failed, complete = find(conditions, Stage.FAILED), find(conditions, Stage.COMPLETE)
    if failed is not None and failed.status == "True":
        message = f"FineTuneJob {name} has failed ({failed.reason}: {failed.message}). Delete it and create it anew, or cancel this job."
        draft.condition(Stage.STALLED, "True", "UpstreamFailed", message)
        _wait(draft, message)
        return False
    if status is None or complete is None or complete.status != "True":
        _wait(draft, f"Waits for FineTuneJob {name}, which is {(status and status.state) or 'Pending'}.")
        return False
    if status.artifact is None:
        sentence = f"FineTuneJob {name} was a dry run and made nothing; delete it and let it run in earnest, or name another job."
        refuse(draft, Finding(Reason.UNSUPPORTED, sentence))
        return False
    return True


def _wait(draft: Draft, message: str) -> None:
    draft.condition(Stage.RUNNING, "False", WAITING_FOR_JOB, message)
    draft.stand(WAITING_FOR_JOB, message)
