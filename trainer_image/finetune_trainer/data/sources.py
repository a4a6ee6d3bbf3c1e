"""The files a dataset names, brought onto this machine."""

from pathlib import Path
from typing import Literal, NamedTuple

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import DatasetSpec, Source
from finetune_stage.outcome import Places
from finetune_storage import FetchedFile, fetch_rows, is_pattern, matching

SplitName = Literal["train", "validation", "test"]
Role = SplitName | Literal["mix"]
"""What a source's rows are for; those of mix end among the training rows."""
HELD_OUT_FIRST: tuple[SplitName, ...] = ("test", "validation", "train")


class SourceFile(NamedTuple):
    """One file of rows."""

    split: Role
    name: str
    """What the user calls it: address, ConfigMap and key, or claim and path."""
    path: Path
    generation: int | None = None
    """Of an object in gs://: the version that was read."""


def fetch_sources(dataset: DatasetSpec, places: Places, gs_url: str | None = None) -> list[SourceFile]:
    """Every file the dataset names, the held-out ones first, the files of a split in the order of their names."""
    sources: dict[Role, Source | None] = {split: getattr(dataset, split) for split in HELD_OUT_FIRST}
    sources["mix"] = dataset.mix.source if dataset.mix else None
    return [
        SourceFile(role, *file)
        for role, source in sources.items()
        if source is not None
        for file in fetch_source(role, source, places, gs_url)
    ]


def fetch_source(role: str, source: Source, places: Places, gs_url: str | None = None) -> list[FetchedFile]:
    """Every file of a source; ``role`` is the field of the dataset that names it."""
    if source.uri is not None:
        folder, secret = places.work_dir / "sources" / role, places.secret(source.secret_ref)
        return fetch_rows(source.uri, folder, secret, secret_wait=places.secret_wait, gs_url=gs_url)
    root = places.sources_dir / role
    if source.config_map is not None:
        prefix, path = f"ConfigMap {source.config_map.name}, key ", source.config_map.key
    elif source.persistent_volume_claim is not None:
        claim = source.persistent_volume_claim
        prefix, path = f"PersistentVolumeClaim {claim.claim_name}, path ", claim.path
    else:
        raise Failure(Reason.CONFIG_INVALID, f"dataset.{role}: set one of uri, configMap, persistentVolumeClaim")
    return [
        FetchedFile(f"{prefix}{name}", root / name) for name in _mounted(root, path, f"dataset.{role}: {prefix}{path}")
    ]


def _mounted(root: Path, path: str, called: str) -> list[str]:
    """Files below a mounted folder that a path or pattern stands for."""
    names = [path] if not is_pattern(path) else matching(_below(root), path)
    if not all((root / name).resolve().is_relative_to(root.resolve()) for name in names):
        raise Failure(Reason.CONFIG_INVALID, f"{called}: the path leads outside of the volume")
    if not names or not all((root / name).is_file() for name in names):
        raise Failure(Reason.DATASET_NOT_FOUND, f"{called}: there is no such file")
    return names


def _below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
