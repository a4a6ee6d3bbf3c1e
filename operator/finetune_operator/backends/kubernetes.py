"""Runs the trainer image in pods of this cluster."""

from finetune_api.pods import JobConfig
from finetune_operator.cache import Manifest
from finetune_operator.manifests.training import Attempt, attempt_objects
from finetune_operator.settings import Settings


def objects(config: JobConfig, attempt: Attempt, settings: Settings) -> list[Manifest]:
    """One Job; for several nodes also a Service."""
    return attempt_objects(config, attempt, settings)
