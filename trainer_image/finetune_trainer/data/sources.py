"""The files a dataset names, brought onto this machine."""

from pathlib import Path
from typing import Literal, NamedTuple

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import DatasetSpec, Source
from finetune_stage.outcome import Places

SplitName = Literal["train", "validation", "test"]
HELD_OUT_FIRST: tuple[SplitName, ...] = ("test", "validation", "train")


class SourceFile(NamedTuple):
    """One file of rows."""

    split: SplitName
    name: str
    """What the user calls it: address, ConfigMap and key, or claim and path."""
    path: Path


def fetch_sources(dataset: DatasetSpec, places: Places) -> list[SourceFile]:
    """Every file the dataset names, the held-out ones first."""
    return [
        _fetch(split, source, places) for split in HELD_OUT_FIRST if (source := getattr(dataset, split)) is not None
    ]


def _fetch(split: SplitName, source: Source, places: Places) -> SourceFile:
    if source.uri is not None:
        path = places.work_dir / "sources" / f"{split}.jsonl"
        places.store(source.uri, source.secret_ref, Reason.DATASET_NOT_FOUND).download("", path)
        return SourceFile(split, source.uri, path)
    root = places.sources_dir / split
    if source.config_map is not None:
        name = f"ConfigMap {source.config_map.name}, key {source.config_map.key}"
        path = root / source.config_map.key
    elif source.persistent_volume_claim is not None:
        claim = source.persistent_volume_claim
        name, path = f"PersistentVolumeClaim {claim.claim_name}, path {claim.path}", root / claim.path
        if not path.resolve().is_relative_to(root.resolve()):
            raise Failure(Reason.CONFIG_INVALID, f"{name}: the path leads outside of the volume")
    else:
        raise Failure(Reason.CONFIG_INVALID, f"dataset.{split}: set one of uri, configMap, persistentVolumeClaim")
    if not path.is_file():
        raise Failure(Reason.DATASET_NOT_FOUND, f"dataset.{split}: {name}: there is no such file")
    return SourceFile(split, name, path)
