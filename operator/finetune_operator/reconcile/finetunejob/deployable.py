"""Whether what a job makes could be served as spec.deploy asks: a list of small checks; each says, as a sentence, why not. Pure.

What an AdapterDeployment would be told after hours of training is said before it, in the same words where they are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.pods import BASE_MODEL_NAME
from finetune_api.servable import SCORERS, servable
from finetune_api.v1alpha1.adapter import AdapterSpec, AdapterType
from finetune_api.v1alpha1.adapterdeployment import AdapterDeploymentSpec, AdapterRef, Server, Traffic
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.references import JobRef
from finetune_operator.manifests.delegate import delegation
from finetune_operator.manifests.serving import MAX_LORA_RANK
from finetune_operator.reconcile.pool_members import runtime_refusal, unsupported

WITH_MAGNITUDES = ("DoRA", "QDoRA")
"""Served by the transformers server alone."""


@dataclass(frozen=True)
class Wish:
    """What shall be served, and how."""

    name: str
    server: Server
    traffic: Traffic
    method: str
    adapter: AdapterType
    settings: AdapterSpec | None
    """The adapter's, where any are stated."""
    is_delegated: bool


Check = Callable[[Wish], str | None]


def refusal(spec: FineTuneJobSpec, method: str, adapter: AdapterType) -> str | None:
    """Why deploy cannot be carried out; None: it can, or is not asked for."""
    if spec.deploy is None:
        return None
    server = (spec.deploy.template and spec.deploy.template.server) or Server()
    traffic = (spec.deploy.template and spec.deploy.template.traffic) or Traffic()
    wish = Wish(spec.deploy.name, server, traffic, method, adapter, spec.adapter, delegation(spec) is not None)
    return next((sentence for check in CHECKS if (sentence := check(wish))), None)


def _writes_text(wish: Wish) -> str | None:
    """A server goes on with texts; a head scores them."""
    if wish.method not in SCORERS:
        return None
    return f"deploy serves models that write text, and method {wish.method} makes one that scores it; leave deploy out."


def _is_implemented(wish: Wish) -> str | None:
    """As for every AdapterDeployment."""
    asked = AdapterDeploymentSpec(adapter=AdapterRef(job_ref=JobRef(name=wish.name)), server=wish.server)
    finding = unsupported(asked, wish.server)
    return f"deploy.template: {finding.message}" if finding else None


def _is_where_the_model_is(wish: Wish) -> str | None:
    """A provider serves what it has tuned, and nothing else does."""
    clause = runtime_refusal(wish.server, is_delegated=wish.is_delegated)
    return f"deploy.template: the job {clause}." if clause else None


def _is_an_adapter_beside_others(wish: Wish) -> str | None:
    """A pool hot-loads low-rank adapters on a base."""
    has_new_tokens = wish.settings is not None and bool(wish.settings.new_tokens)
    how, why = servable(wish.method, wish.adapter, new_tokens=has_new_tokens)
    if wish.is_delegated or how == "Adapter" or (wish.adapter in WITH_MAGNITUDES and not has_new_tokens):
        return None
    if has_new_tokens:
        return f"deploy serves adapters beside others, and one with adapter.newTokens cannot be served so: {why}; leave newTokens or deploy out."
    return (
        f"deploy serves adapters beside others, and adapter {wish.adapter} cannot be served so: {why}; "
        "use adapter LoRA, QLoRA, RsLoRA or LoraPlus, or leave deploy out."
    )


def _rank_fits(wish: Wish) -> str | None:
    """A model server sets memory aside for the highest rank; one that is left out, the plan chooses."""
    if wish.is_delegated or wish.settings is None:
        return None
    runtime = wish.server.runtime.transformers
    limit = (runtime and runtime.max_lora_rank) or MAX_LORA_RANK
    highest = max(wish.settings.rank or 0, *(wish.settings.rank_pattern or {}).values(), 0)
    if highest <= limit:
        return None
    return (
        f"deploy serves ranks up to {limit}, and adapter has {highest}: set deploy.template.server.runtime.transformers.maxLoraRank "
        f"to {highest}, or lower adapter.rank and rankPattern."
    )


def _leaves_the_base_out(wish: Wish) -> str | None:
    """It is the job's own."""
    if wish.server.base_model is None:
        return None
    return "deploy.template.server.baseModel is the job's own base model: leave it out."


def _names_are_free(wish: Wish) -> str | None:
    """In a pool the base has its name, and in a split the adapter."""
    if any(share.adapter == wish.name for share in wish.traffic.split or []):
        return f"deploy.template.traffic.split calls the job's own adapter Self, not {wish.name}."
    if (wish.traffic.model or wish.name) == BASE_MODEL_NAME:
        return f"Model name {BASE_MODEL_NAME} is the base model's in every pool: set deploy.template.traffic.model to another."
    return None


CHECKS: list[Check] = [
    _writes_text,
    _is_implemented,
    _is_where_the_model_is,
    _is_an_adapter_beside_others,
    _rank_fits,
    _leaves_the_base_out,
    _names_are_free,
]
