"""Whether pods may run as the service account a spec names; both kinds ask this."""

from collections.abc import Mapping
from typing import Any

from finetune_operator.plan import Ref

ALLOW = "finetune.dev/allow"


def service_account(namespace: str, name: str) -> Ref:
    """What to read to know it (:attr:`Plan.reads`)."""
    return Ref("v1", "ServiceAccount", namespace, name)


def refusal(namespace: str, name: str, answers: Mapping[Ref, Any]) -> str | None:
    """Why not, as a sentence; None: allowed.

    Without the annotation, whoever may create FineTuneJobs could run as any service account of the namespace.
    """
    found = answers[service_account(namespace, name)]
    if found is None:
        return (
            f'ServiceAccount {name} does not exist in namespace {namespace}; create it with annotation {ALLOW}: "true".'
        )
    if (found["metadata"].get("annotations") or {}).get(ALLOW) != "true":
        return f'ServiceAccount {name} does not carry the annotation {ALLOW}: "true"; ask its owner to add it.'
    return None
