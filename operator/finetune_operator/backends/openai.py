"""Runs the delegate in a pod of this cluster, and the training at a service with OpenAI's API."""

from finetune_api.pods import JobConfig
from finetune_operator.cache import Manifest
from finetune_operator.manifests import delegate
from finetune_operator.manifests.training import Attempt
from finetune_operator.settings import Settings


def objects(config: JobConfig, attempt: Attempt, settings: Settings) -> list[Manifest]:
    """One Job."""
    return delegate.objects(config, attempt, settings)
