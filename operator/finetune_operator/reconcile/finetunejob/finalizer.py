"""The finalizer of delegated jobs: set before anything runs, taken away by :mod:`finetune_operator.reconcile.finetunejob.release`."""

from finetune_api import API_VERSION
from finetune_operator.cache import Manifest
from finetune_operator.manifests.delegate import delegation
from finetune_operator.reconcile.finetunejob.draft import Draft

FINALIZER = "finetune.dev/provider"


def is_held(body: Manifest) -> bool:
    """Whether our finalizer is there."""
    return FINALIZER in (body["metadata"].get("finalizers") or [])


def hold(draft: Draft) -> None:
    """From now on the job may not go before the provider was told."""
    if delegation(draft.job.spec) is not None and not is_held(draft.seen.body):
        draft.apply.append(finalizers(draft.seen.body, [FINALIZER]))


def finalizers(body: Manifest, names: list[str]) -> Manifest:
    """Ours alone: server-side apply leaves those of others. With the uid, so that nothing is made anew."""
    meta = body["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"], "finalizers": names},
    }
