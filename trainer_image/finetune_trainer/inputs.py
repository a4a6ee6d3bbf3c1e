"""What the train stage reads: resolved.json and the prepared data of the job's folder, verified; and nothing else."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api.artifacts import RESOLVED, RateSearch, Resolved
from finetune_api.model import Digest, first_fault
from finetune_api.reasons import Failure, Reason
from finetune_stage.outcome import Places
from finetune_stage.rows import Row, Splits, fetch_rows, held_out
from finetune_storage import Store, digest_of


@dataclass(frozen=True)
class Inputs:
    """Everything there is to know before the base model is loaded."""

    resolved: Resolved
    resolved_digest: Digest
    splits: Splits
    store: Store
    """The job's folder."""
    places: Places
    search: RateSearch | None = None
    """What the search for the learning rate came to, where there was one; resolved has its rate."""

    @property
    def work(self) -> Path:
        """Scratch space; data/ in it holds the prepared data."""
        return self.places.work_dir

    def held_out(self) -> tuple[str, list[Row]]:
        """Name and rows of the split the evaluation uses."""
        return held_out(self.splits)


def read_inputs(store: Store, places: Places) -> Inputs:
    """Download and verify what the prepare stage wrote."""
    data = store.get(RESOLVED)
    try:
        resolved = Resolved.model_validate_json(data)
    except ValidationError as error:
        raise Failure(
            Reason.ARTIFACT_CORRUPT, f"{store.uri(RESOLVED)} is not a resolved configuration: {first_fault(error)}"
        ) from None
    splits = fetch_rows(store, places, resolved.splits, resolved.data_digest)
    return Inputs(resolved, digest_of(data), splits, store, places)
