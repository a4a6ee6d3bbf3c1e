"""A delegated job's objects: the delegate's pod in place of the train pod, and the Job that cancels at the provider."""

from dataclasses import replace

from finetune_api.pods import JobConfig
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.provider import OpenAIBackend, VertexBackend
from finetune_operator.cache import Manifest
from finetune_operator.manifests import pod
from finetune_operator.manifests.training import Attempt, Program, attempt_job, attempt_name, config_map
from finetune_operator.settings import Settings

WAITING: Manifest = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
"""It converts rows once, and then waits and asks."""
CANCEL_SECONDS = 300
"""How long a deletion waits for the provider at most."""
CANCEL_TRIES = 4
KEPT_SECONDS = 600


def delegation(spec: FineTuneJobSpec) -> VertexBackend | OpenAIBackend | None:
    """The provider's settings; None: the job runs in this cluster."""
    return (spec.backend.vertex or spec.backend.openai) if spec.backend else None


def objects(config: JobConfig, attempt: Attempt, settings: Settings) -> list[Manifest]:
    """What every provider needs: data is prepared, and a lost result collected, by the trainer; the rest is the delegate's."""
    return [attempt_job(config, attempt, settings, _program(config, attempt) if attempt.stage == "Train" else None)]


def cancel_job(config: JobConfig, settings: Settings) -> Manifest:
    """Cancels at the provider what the job has there. Has no owner: it must outlive a FineTuneJob that is being deleted."""
    attempt = Attempt("Cancel", 1)
    own = replace(_program(config, attempt), config=cancel_name(config.name, config.uid))
    job = attempt_job(config, attempt, settings, own)
    metadata = {key: value for key, value in job["metadata"].items() if key != "ownerReferences"}
    limits = {
        "backoffLimit": CANCEL_TRIES,
        "activeDeadlineSeconds": CANCEL_SECONDS,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
    }
    return {**job, "metadata": metadata, "spec": {**job["spec"], **limits}}


def cancel_config(config: JobConfig, settings: Settings, job: Manifest) -> Manifest:
    """Its ConfigMap, which goes with it: the FineTuneJob's may go first, with a deletion in the foreground."""
    made = config_map(config, settings)
    meta = job["metadata"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {**made, "metadata": {**made["metadata"], "name": meta["name"], "ownerReferences": [owner]}}


def cancel_name(name: str, uid: str) -> str:
    """Name of the Job that cancels, and of its ConfigMap."""
    return attempt_name(name, uid, "Cancel", 1)


def _program(config: JobConfig, attempt: Attempt) -> Program:
    backend = delegation(config.spec)
    assert backend is not None
    refs = [config.spec.output.secret_ref, backend.secret_ref]
    return Program(
        image=config.delegate_image or config.image,
        arguments=["finetune_delegate", attempt.stage.lower(), "--attempt", str(attempt.number)],
        resources=pod.resources(backend.resources, WAITING),
        secrets=frozenset(ref.name for ref in refs if ref is not None),
    )
