"""Backends: pure functions from a job and an attempt to the objects that shall exist for it, in one literal table.

A backend of the API that is not in the table is refused before anything is created.
"""

from collections.abc import Callable, Mapping

from finetune_api.pods import JobConfig
from finetune_operator.backends import kubernetes, openai, vertex
from finetune_operator.cache import Manifest
from finetune_operator.manifests.training import Attempt
from finetune_operator.settings import Settings

Backend = Callable[[JobConfig, Attempt, Settings], list[Manifest]]
"""What shall exist for this attempt; the first object is the Job whose end is the attempt's."""

BACKENDS: Mapping[str, Backend] = {
    "kubernetes": kubernetes.objects,
    "vertex": vertex.objects,
    "openai": openai.objects,
}
