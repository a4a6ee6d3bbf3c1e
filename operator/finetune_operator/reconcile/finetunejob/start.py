"""From accepted to started: the base model is resolved, the configuration frozen, startTime written.

Order matters: the ConfigMap first, then startTime (from which the API server refuses changes), then the first Job.
"""

from pydantic import ValidationError

from finetune_api.pods import JobConfig
from finetune_api.reasons import Stage
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_operator.cache import UPSTREAM
from finetune_operator.manifests.delegate import delegation
from finetune_operator.manifests.training import CONFIG_KEY, config_map, kubernetes
from finetune_operator.plan import ref_of
from finetune_operator.reconcile.finetunejob.checks import BEFORE_START, first_finding, service_account_finding
from finetune_operator.reconcile.finetunejob.draft import Draft, timestamp
from finetune_operator.reconcile.finetunejob.earlier import adapters_by_address
from finetune_operator.reconcile.finetunejob.finalizer import hold
from finetune_operator.reconcile.finetunejob.upstream import finished_upstream, refuse

DRY_RUN = "finetune.dev/dry-run"
"""Annotation of a delegated job, read when it starts: show the request and send nothing."""


def accepted(draft: Draft) -> bool:
    """Refuse what cannot be carried out. Returns whether the job stands here."""
    if draft.status.start_time is not None:
        return False
    finding = first_finding(BEFORE_START, draft.job.spec) or service_account_finding(draft)
    if draft.reads:
        return True
    if finding is not None:
        refuse(draft, finding)
        return True
    draft.condition(Stage.ACCEPTED, "True", "Supported", "This operator can carry the spec out.")
    return False


def base_resolved(draft: Draft) -> bool:
    """Find the address behind baseModel, waiting for the job that makes it. Returns whether the job stands here."""
    if draft.status.start_time is not None:
        return False
    base = draft.job.spec.base_model
    if base.job_ref is None:
        draft.update(
            base_model=ResolvedBaseModel(
                uri=base.uri, revision=base.revision, digest=base.digest, secret_ref=base.secret_ref
            )
        )
        return False
    found = finished_upstream(draft, UPSTREAM, base.job_ref.name, "Model")
    if found is None:
        return True
    secret = base.secret_ref or found.secret_ref
    draft.update(
        base_model=ResolvedBaseModel(uri=found.uri, digest=found.digest, secret_ref=secret, job_uid=found.job_uid)
    )
    return False


def frozen(draft: Draft) -> bool:
    """Write down what will be carried out. Returns whether the job stands here."""
    existing = draft.seen.config
    if draft.status.start_time is None:
        hold(draft)
    if existing is None:
        draft.create.append(config_map(new_config(draft), draft.seen.settings))
    if draft.status.start_time is not None:
        return False
    if existing is not None and not _is_current(draft):
        draft.delete.append(ref_of(existing))  # the spec changed between freezing and starting
        draft.later(0.5)
        return True
    draft.update(start_time=timestamp(draft.now))
    draft.condition(Stage.DATA_VALIDATED, "Unknown", "Preparing", "The data is about to be read and checked.")
    draft.condition(Stage.RUNNING, "False", "Preparing", "The data is prepared first.")
    draft.stand("Preparing", "The configuration is frozen; the data is about to be read and checked.")
    return True


def _is_current(draft: Draft) -> bool:
    """Whether what is frozen is what would be now; what cannot be read was not written by this version, and is not."""
    try:
        return frozen_config(draft) == new_config(draft)
    except (KeyError, ValidationError):
        return False


def new_config(draft: Draft) -> JobConfig:
    """The configuration as it would be frozen now."""
    is_delegated = delegation(draft.job.spec) is not None
    annotations = draft.seen.body["metadata"].get("annotations") or {}
    return JobConfig(
        namespace=draft.namespace,
        name=draft.name,
        uid=draft.uid,
        spec=adapters_by_address(draft),
        base_model=draft.status.base_model or ResolvedBaseModel(),
        reward_model=draft.status.reward_model,
        image=kubernetes(draft.job.spec).image or draft.seen.settings.trainer_image,
        delegate_image=draft.seen.settings.operator_image if is_delegated else None,
        dry_run=is_delegated and annotations.get(DRY_RUN) == "true",
    )


def frozen_config(draft: Draft) -> JobConfig:
    """The configuration as it was frozen: an operator upgrade changes no started job's image."""
    if draft.seen.config is None:
        return new_config(draft)
    return JobConfig.model_validate_json(draft.seen.config["data"][CONFIG_KEY])
