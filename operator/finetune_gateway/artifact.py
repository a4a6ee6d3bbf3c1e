"""An adapter on disk: fetched, verified, and checked against the server before the server sees it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from finetune_api.artifacts import MANIFEST, Manifest
from finetune_api.pods import DesiredAdapter
from finetune_api.reasons import Failure, Reason, ServingReason
from finetune_api.v1alpha1.references import ModelRef
from finetune_storage import document, fetch_folder, open_store

PATIENCE_SECONDS = 20
"""Retries inside one fetch; the adapter's own task tries again after it."""
PARTIAL = "partial."
"""Prefix of a folder that is still being fetched; no AdapterDeployment has a dot in its name."""

SERVING_REASON = {
    Reason.ARTIFACT_CORRUPT: ServingReason.DIGEST_MISMATCH,
    Reason.MODEL_NOT_FOUND: ServingReason.ARTIFACT_NOT_FOUND,
    Reason.ACCESS_DENIED: ServingReason.ACCESS_DENIED,
    Reason.SECRET_NOT_FOUND: ServingReason.SECRET_NOT_FOUND,
}


class LoadFailure(Exception):
    """An adapter that cannot be served; the message names what was found and what was expected."""

    def __init__(self, reason: ServingReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class AdapterConfig(BaseModel):
    """The part of PEFT's adapter_config.json that decides whether a server can take it."""

    peft_type: str
    r: int = 0
    rank_pattern: dict[str, int] | None = None
    trainable_token_indices: Any = None
    """Of an adapter with new tokens: layers, or none, and rows of the vocabulary."""

    @property
    def highest_rank(self) -> int:
        """The largest rank of any layer."""
        return max(self.r, *(self.rank_pattern or {}).values(), 0)


@dataclass(frozen=True)
class Limits:
    """What the model server beside us accepts."""

    base_model: ModelRef
    """The base it serves, with the digest of what was fetched where that has one."""
    max_lora_rank: int


def fetch_adapter(desired: DesiredAdapter, folder: Path, secrets_dir: Path) -> Manifest:
    """Fetch and verify into ``folder`` (blocking); a folder that exists was verified before it got its name."""
    if not folder.exists():
        assert desired.uri  # a provider's models are not fetched
        partial = folder.with_name(PARTIAL + folder.name)
        shutil.rmtree(partial, ignore_errors=True)
        secrets = secrets_dir / desired.secret_ref.name if desired.secret_ref else None
        try:
            store = open_store(
                desired.uri,
                secrets,
                missing=Reason.MODEL_NOT_FOUND,
                patience=PATIENCE_SECONDS,
                secret_wait=PATIENCE_SECONDS,
            )
            manifest = fetch_folder(store, "", partial, desired.digest)
        except Failure as failure:
            reason = SERVING_REASON.get(failure.reason, ServingReason.STORAGE_UNAVAILABLE)
            raise LoadFailure(reason, failure.message) from failure
        partial.mkdir(exist_ok=True)
        (partial / MANIFEST).write_bytes(document(manifest))
        partial.rename(folder)
    return Manifest.model_validate_json((folder / MANIFEST).read_bytes())


def check_adapter(folder: Path, manifest: Manifest, limits: Limits) -> None:
    """Raises LoadFailure where the server cannot or must not serve it."""
    if manifest.kind != "Adapter":
        raise LoadFailure(ServingReason.ADAPTER_INVALID, f"the artifact is a {manifest.kind}, expected an Adapter")
    check_base(manifest, limits.base_model)
    config = read_config(folder)
    if config.peft_type != "LORA":
        raise LoadFailure(
            ServingReason.ADAPTER_INVALID, f"adapter_config.json has peft_type {config.peft_type}, expected LORA"
        )
    if config.trainable_token_indices:
        raise LoadFailure(
            ServingReason.ADAPTER_INVALID,
            "the adapter brings new tokens (trainable_token_indices in adapter_config.json), and all adapters of a pool share the "
            "vocabulary of its base; serve an adapter without",
        )
    if config.highest_rank > limits.max_lora_rank:
        raise LoadFailure(
            ServingReason.RANK_TOO_HIGH,
            f"the adapter has rank {config.highest_rank}, the server accepts at most {limits.max_lora_rank} (runtime maxLoraRank)",
        )


def read_config(folder: Path) -> AdapterConfig:
    """The adapter's own description."""
    try:
        return AdapterConfig.model_validate_json((folder / "adapter_config.json").read_bytes())
    except OSError as error:
        raise LoadFailure(ServingReason.ADAPTER_INVALID, "the artifact has no adapter_config.json") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"adapter_config.json is not usable: {where} {first['msg']}, found {str(first['input'])[:100]}"
        raise LoadFailure(ServingReason.ADAPTER_INVALID, message) from error


def check_base(manifest: Manifest, serves: ModelRef) -> None:
    """Digests decide where both are known: the same bytes may lie at two addresses."""
    trained = manifest.base_model
    if trained is None:
        return
    if trained.digest and serves.digest:
        same = trained.digest == serves.digest
    else:
        same = trained.uri is None or (trained.uri.rstrip("/") == serves.uri.rstrip("/"))
        same = same and (not trained.revision or not serves.revision or trained.revision == serves.revision)
    if not same:
        raise LoadFailure(
            ServingReason.BASE_MODEL_MISMATCH,
            f"the adapter was trained on {_named(trained.uri, trained.revision, trained.digest)}, "
            f"this pool serves {_named(serves.uri, serves.revision, serves.digest)}",
        )


def _named(uri: str | None, revision: str | None, digest: str | None) -> str:
    return " ".join(part for part in (uri or "an unnamed base", revision and f"at {revision}", digest) if part)
