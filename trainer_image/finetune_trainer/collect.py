"""The collect stage: find the outcome of a train pod whose last words were lost."""

from finetune_api.artifacts import MANIFEST
from finetune_api.pods import JobConfig, Trained
from finetune_api.reasons import Failure, Reason
from finetune_stage.outcome import Places
from finetune_stage.record import published
from finetune_stage.rows import open_output


def run(config: JobConfig, places: Places) -> Trained:
    """What the job's manifest says; the same the train stage returned."""
    store = open_output(config, places)
    found = published(store)
    if found is None:
        raise Failure(
            Reason.INTERNAL_ERROR,
            f"{store.uri(MANIFEST)} does not exist: the train pod ended without an error and published nothing",
        )
    return found
