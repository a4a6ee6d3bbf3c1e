"""What must hold before a job starts: a list of small checks; the first finding is the condition Accepted=False."""

from collections.abc import Callable
from typing import Literal

from finetune_api.matrix import (
    METHODS,
    SAMPLING_METHODS,
    MethodName,
    course_refusal,
    foreign_metrics,
    refusal,
    search_refusal,
    skip_refusal,
)
from finetune_api.reasons import Reason
from finetune_api.servable import SCORERS
from finetune_api.v1alpha1.adapter import AdapterType
from finetune_api.v1alpha1.evaluation import rows_refusal
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.backends import BACKENDS
from finetune_operator.manifests.delegate import delegation
from finetune_operator.manifests.training import placement
from finetune_operator.reconcile import service_account
from finetune_operator.reconcile.finding import Finding
from finetune_operator.reconcile.finetunejob import delegated, deployable
from finetune_operator.reconcile.finetunejob.draft import Draft

EIGHT_BITS = ("AdamW8bit", "PagedAdamW8bit")
"""Optimizers of bitsandbytes."""
IN_SHARES: tuple[MethodName, ...] = ("sft", "cpt", "dpo", "orpo", "reward", "classification")
"""Methods in which a batch's gradient is a mean over its rows or tokens."""


Check = Callable[[FineTuneJobSpec], Finding | None]


def unsupported(message: str) -> Finding:
    """A choice this version does not implement."""
    return Finding(Reason.UNSUPPORTED, message)


def method_of(spec: FineTuneJobSpec) -> MethodName:
    """Name of the method; left out, sft."""
    stated = spec.method.wire() if spec.method else {}
    return next((name for name in METHODS if name in stated), "sft")


def adapter_of(spec: FineTuneJobSpec) -> AdapterType:
    """Type of the adapter; left out, LoRA, and for cpt Full."""
    if spec.adapter is not None:
        return spec.adapter.type
    return "Full" if method_of(spec) == "cpt" else "LoRA"


def backend_of(spec: FineTuneJobSpec) -> str:
    """Name of the backend; left out, kubernetes."""
    return next(iter(spec.backend.wire()), "kubernetes") if spec.backend else "kubernetes"


def method_fits_the_adapter(spec: FineTuneJobSpec) -> Finding | None:
    """Of the methods and adapters the API knows, those that work, and work together."""
    if delegation(spec) is not None:
        return None
    sentence = refusal(method_of(spec), adapter_of(spec))
    return unsupported(sentence) if sentence else None


def base_fits_the_backend(spec: FineTuneJobSpec) -> Finding | None:
    """A provider has models of its own."""
    sentence = delegated.base_refusal(spec, backend_of(spec))
    return unsupported(sentence) if sentence else None


def provider_takes_it(spec: FineTuneJobSpec) -> Finding | None:
    """A provider decides much by itself."""
    sentence = delegated.refusal(spec, backend_of(spec))
    return unsupported(sentence) if sentence else None


def backend_is_supported(spec: FineTuneJobSpec) -> Finding | None:
    """Of the backends the API knows."""
    backend = backend_of(spec)
    return (
        None
        if backend in BACKENDS
        else unsupported(f"backend {backend} is not supported yet; supported are {', '.join(BACKENDS)}.")
    )


def dropout_fits_the_method(spec: FineTuneJobSpec) -> Finding | None:
    """What is learned from must be what was sampled, by the same weights."""
    method = method_of(spec)
    if method not in SAMPLING_METHODS or spec.adapter is None or not spec.adapter.dropout:
        return None
    return unsupported(
        f"method {method} learns from answers it samples, and dropout would change the model between the two; "
        "leave adapter.dropout out."
    )


def training_fits_the_method(spec: FineTuneJobSpec) -> Finding | None:
    """What is done to texts with one right answer only, and what needs a GPU's kernels."""
    training, method = spec.training, method_of(spec)
    if training is None or delegation(spec) is not None:
        return None
    stated = training.wire()
    foreign = [name for name in ("neftuneAlpha", "labelSmoothing") if name in stated and method != "sft"]
    if foreign:
        return unsupported(f"training.{foreign[0]} is for method sft, not {method}: leave it out.")
    kubernetes = spec.backend.kubernetes if spec.backend else None
    processes = kubernetes.processes if kubernetes else 1
    sentences = [
        skip_refusal(method, processes) if training.on_non_finite_loss == "SkipBatch" else None,
        search_refusal(method, processes) if training.learning_rate_search is not None else None,
    ]
    if found := next(filter(None, sentences), None):
        return unsupported(found)
    if training.optimizer in EIGHT_BITS and not (kubernetes and kubernetes.gpus):
        return unsupported(
            f"training.optimizer {training.optimizer} needs a GPU: set backend.kubernetes.gpus, or use AdamW or Adafactor."
        )
    return None


def validation_loss_can_be_taken(spec: FineTuneJobSpec) -> Finding | None:
    """What is decided by the validation loss needs rows, and a method that lowers it."""
    asked = spec.training.asks_validation_rows() if spec.training else []
    if not asked or delegation(spec) is not None:
        return None
    sentence = course_refusal(method_of(spec), asked[0])
    if sentence is not None:
        return unsupported(sentence)
    if has_rows(spec, "validation"):
        return None
    return unsupported(
        f"training.{asked[0]} goes by the loss on validation rows: set dataset.validation or dataset.split.validation."
    )


def processes_fit_the_method(spec: FineTuneJobSpec) -> Finding | None:
    """Shares of a batch must come to what the whole batch comes to."""
    kubernetes = spec.backend.kubernetes if spec.backend else None
    method = method_of(spec)
    if kubernetes is None or kubernetes.processes == 1:
        return None
    optimizer = (spec.training.optimizer if spec.training else None) or "AdamW"
    if adapter_of(spec) == "Full" and optimizer != "AdamW":
        return unsupported(
            f"training.optimizer {optimizer} knows no weights that are spread over several processes, as those of adapter Full are: use AdamW."
        )
    if method == "dpo" and adapter_of(spec) == "Full":
        return unsupported(
            "method dpo with adapter Full cannot be spread over several processes yet: use another adapter, or gpus and nodes of at most 1."
        )
    if method in IN_SHARES:
        return None
    return unsupported(
        f"method {method} looks at answers together, and several processes would each see a part of them: backend.kubernetes gpus and "
        f"nodes of at most 1. Several are supported for {', '.join(IN_SHARES)}."
    )


def new_tokens_are_added_once(spec: FineTuneJobSpec) -> Finding | None:
    """Their rows are no weights of PEFT's layers, and were not tried in several processes."""
    kubernetes = spec.backend.kubernetes if spec.backend else None
    if kubernetes is None or kubernetes.processes == 1 or spec.adapter is None or not spec.adapter.new_tokens:
        return None
    return unsupported(
        "adapter.newTokens are supported for one process: leave them out, or set backend.kubernetes gpus and nodes to at most 1."
    )


def metrics_fit_the_method(spec: FineTuneJobSpec) -> Finding | None:
    """Raw text has no answers to compare, and a preference no single right one."""
    if spec.evaluation is None or delegation(spec) is not None:
        return None
    asked = {*(spec.evaluation.metrics or []), *(rule.metric for rule in spec.evaluation.gate or [] if not rule.suite)}
    sentence = foreign_metrics(method_of(spec), asked)
    return unsupported(f"evaluation: {sentence}") if sentence else None


def suites_fit_the_method(spec: FineTuneJobSpec) -> Finding | None:
    """Rows of other tasks are gone on with, or answered; a head scores them."""
    method = method_of(spec)
    stated = spec.evaluation.wire() if spec.evaluation and method in SCORERS else {}
    found = next((name for name in ("suites", "previous") if name in stated), None)
    if found is None:
        return None
    return unsupported(
        f"evaluation.{found} is for models that write text, and method {method} makes one that scores it; leave it out."
    )


def evaluation_has_rows(spec: FineTuneJobSpec) -> Finding | None:
    """What is asked of held-out rows needs some, and a gate those that nothing was chosen by."""
    evaluation = spec.evaluation
    if evaluation is None or has_rows(spec, "test"):
        return None
    if any(rule.suite is None for rule in evaluation.gate or ()):
        return unsupported(
            "evaluation.gate is decided on test rows: set dataset.test or dataset.split.test, or name a suite in every rule."
        )
    sentence = None if has_rows(spec, "validation") else rows_refusal(evaluation)
    return unsupported(sentence) if sentence else None


def has_rows(spec: FineTuneJobSpec, split: Literal["validation", "test"]) -> bool:
    """Whether the dataset names rows of a split: files of their own, or a share of the training rows."""
    share = spec.dataset.split
    return getattr(spec.dataset, split) is not None or (share is not None and getattr(share, split) is not None)


def deploy_can_be_served(spec: FineTuneJobSpec) -> Finding | None:
    """What no pool takes, or no AdapterDeployment may ask for."""
    sentence = deployable.refusal(spec, method_of(spec), adapter_of(spec))
    return unsupported(sentence) if sentence else None


DEPLOY: list[Check] = [deploy_can_be_served]
"""Looked at again at the end, as deploy may change after the start."""
BEFORE_START: list[Check] = [
    method_fits_the_adapter,
    backend_is_supported,
    base_fits_the_backend,
    provider_takes_it,
    dropout_fits_the_method,
    training_fits_the_method,
    validation_loss_can_be_taken,
    processes_fit_the_method,
    new_tokens_are_added_once,
    metrics_fit_the_method,
    suites_fit_the_method,
    evaluation_has_rows,
    *DEPLOY,
]


def first_finding(checks: list[Check], spec: FineTuneJobSpec) -> Finding | None:
    """The first thing that is wrong."""
    return next((found for check in checks if (found := check(spec))), None)


def service_account_finding(draft: Draft) -> Finding | None:
    """Whether the pods may run as the named service account; asks for it the first time."""
    _, name = placement(draft.job.spec)
    if name is None:
        return None
    ref = service_account.service_account(draft.namespace, name)
    draft.answer(ref)
    if draft.reads:
        return None
    sentence = service_account.refusal(draft.namespace, name, draft.seen.answers)
    return Finding(Reason.NOT_ALLOWED, sentence) if sentence else None
