"""The base model on the volume that gateway and model server share: fetched by the init container, read by both.

<models dir>/base/…       the model
<models dir>/base.json    its address, pinned: the commit of a hub's revision, the digest of a manifest
"""

import shutil
from pathlib import Path

from finetune_api.pods import DesiredPool
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.finetunejob_status import JobError
from finetune_api.v1alpha1.references import ModelRef
from finetune_storage import fetch_model, pin_model

FOLDER = "base"
PINNED = "base.json"


def fetch_base(config: Path, models_dir: Path, secrets_dir: Path) -> None:
    """Download and verify the pool's base. Raises Failure. Safe to repeat after a kill."""
    wanted = DesiredPool.model_validate_json(config.read_bytes()).base_model
    assert wanted  # a provider's pods have no init container
    secrets = secrets_dir / wanted.secret_ref.name if wanted.secret_ref else None
    shutil.rmtree(models_dir / FOLDER, ignore_errors=True)
    pinned, _ = pin_model(wanted, secrets)
    fetch_model(pinned, models_dir / FOLDER, secrets)
    (models_dir / PINNED).write_text(pinned.model_dump_json(by_alias=True))


def read_base(models_dir: Path) -> ModelRef:
    """The base as it was pinned."""
    return ModelRef.model_validate_json((models_dir / PINNED).read_bytes())


def write_failure(failure: Failure, termination_log: Path) -> None:
    """Tell the operator why the pod does not start."""
    error = JobError(code=failure.reason, message=failure.message[:2048])
    termination_log.write_text(error.model_dump_json(by_alias=True))
