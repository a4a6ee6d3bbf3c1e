"""Optimisers, schedules and regularisers: each changes the training as its name says, and an interrupted run still ends the same."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.methods import ClassificationMethod, KtoMethod
from finetune_api.v1alpha1.training import MethodSpec
from finetune_storage import fetch_folder, open_store
from prepared_jobs import (
    COLOURS,
    FULL,
    colour_rows,
    job_store,
    preferences,
    prepare_job,
    train_here,
    training,
    verdicts,
)
from published_models import fetched, metrics

ROWS = {"train": colour_rows(24)}
STEPS = 10


def artifact(config: JobConfig, secret: Path, folder: Path) -> dict[str, Any]:
    """The weights that were published."""
    key = "model" if job_store(config, secret.parent).exists("model/manifest.json") else "adapter"
    return load_file(next(fetched(config, secret, folder, key).glob("*.safetensors")))


def trained(bucket: str, secret: Path, work: Path, **changes: Any) -> JobConfig:
    adapter, rows = changes.pop("adapter", None), changes.pop("rows", ROWS)
    settings = training(
        **{"steps": STEPS, "checkpoint_every_steps": 5, "learning_rate": 1e-3, "warmup_ratio": 0.2} | changes
    )
    config = prepare_job(bucket, secret.parent, rows, name=work.name, settings=settings, adapter=adapter)
    train_here(config, secret.parent, work)
    return config


def test_wsd_rises_stays_and_falls(bucket: str, secret: Path, tmp_path: Path) -> None:
    config = trained(bucket, secret, tmp_path / "wsd", scheduler="WSD", decay_ratio=0.4)
    # What a step was made with: two of warm-up, stable, and 1 - sqrt in the last four.
    rates = [line["learningRate"] / 1e-3 for line in metrics(config, secret)]
    falling = [1 - (place / 4) ** 0.5 for place in range(4)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 1, 1, *falling], abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"optimizer": "Adafactor"}, id="Adafactor"),
        pytest.param({"neftune_alpha": 50.0}, id="NEFTune"),
        pytest.param({"label_smoothing": 0.2}, id="label smoothing"),
    ],
)
def test_another_course_that_an_interruption_does_not_change(
    bucket: str, secret: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    usual = trained(bucket, secret, tmp_path / "usual")
    whole = trained(bucket, secret, tmp_path / "whole", **changes)
    losses = [[line["loss"] for line in metrics(config, secret)] for config in (usual, whole)]
    assert losses[0] != losses[1]
    # The second half again, from the checkpoint at five: everything after it is taken away.
    store = job_store(whole, secret.parent)
    before = artifact(whole, secret, tmp_path / "before")
    store.delete(
        [key for key in store.list("") if not key.startswith(("data/", "checkpoints/step-000005", "resolved"))]
    )
    train_here(whole, secret.parent, tmp_path / "again")
    after = artifact(whole, secret, tmp_path / "after")
    assert all(before[name].equal(after[name]) for name in before)
    assert before.keys() == after.keys()


def test_smoothed_labels_of_micro_batches_are_those_of_the_whole_batch(
    bucket: str, secret: Path, tmp_path: Path
) -> None:
    """A mean per micro batch would weigh long answers less than short ones."""
    rows = {"train": [row | {"completion": row["completion"] * (1 + i % 4)} for i, row in enumerate(colour_rows(8))]}
    first = []
    for size in (4, 1):
        options = {"steps": 1, "label_smoothing": 0.2, "micro_batch_size": size, "adapter": FULL, "rows": rows}
        config = trained(bucket, secret, tmp_path / f"by-{size}", **options)
        [line] = metrics(config, secret)
        first.append((line["loss"], line["gradNorm"]))
    assert first[0] == pytest.approx(first[1], rel=1e-4)


METHODS = {
    "dpo": ({"train": preferences(23)}, MethodSpec()),
    "orpo": ({"train": preferences(23)}, MethodSpec()),
    "reward": ({"train": preferences(23)}, MethodSpec()),
    "kto": ({"train": verdicts(12)[:23]}, MethodSpec(kto=KtoMethod(loss_type="ApoZeroUnpaired"))),
    "classification": (
        {"train": [{"text": row["prompt"], "labels": [row["completion"].strip()]} for row in colour_rows(23)]},
        MethodSpec(classification=ClassificationMethod(labels=sorted(COLOURS), multi_label=False)),
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_row_of_a_batch_counts_alike_however_it_is_divided(
    bucket: str, secret: Path, tmp_path: Path, method: str
) -> None:
    """The epoch's last batch has seven rows: 4 and 3, or 2, 2, 2 and 1, as after an attempt that ran out of memory."""
    rows, stated = METHODS[method]
    found = []
    for size in (4, 2):
        config = prepare_job(
            bucket,
            secret.parent,
            rows,
            name=f"by-{size}",
            method=method,
            method_settings=stated,
            settings=training(steps=4, batch_size=8, micro_batch_size=size, learning_rate=1e-3),
            adapter=ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.0),
        )
        train_here(config, secret.parent, tmp_path / str(size))
        found.append([(line["loss"], line["gradNorm"]) for line in metrics(config, secret)])
    assert len(found[0]) == 4
    assert found[0] == [pytest.approx(each, rel=1e-4) for each in found[1]]


def test_frozen_layers_and_embeddings_keep_their_weights(bucket: str, secret: Path, tmp_path: Path) -> None:
    frozen = ResolvedAdapterSpec(type="Full", frozen_layers=1)
    config = trained(bucket, secret, tmp_path / "frozen", adapter=frozen, gradient_checkpointing=True)
    found = artifact(config, secret, tmp_path / "model")
    fetch_folder(open_store(bucket, secret), "base", tmp_path / "base", None)
    base = load_file(tmp_path / "base" / "model.safetensors")
    changed = {name for name in base if not base[name].float().equal(found[name].float())}
    assert not [name for name in changed if "layers.0." in name or "embed" in name]
    assert [name for name in changed if "layers.1." in name]


def test_a_model_has_no_more_layers_to_freeze(bucket: str, secret: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"frozenLayers is 2, and the base model has 2 layers: at most 1") as caught:
        trained(bucket, secret, tmp_path / "all", adapter=ResolvedAdapterSpec(type="Full", frozen_layers=2))
    assert caught.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize("kind", ["Full", "LoRA", "DoRA", "IA3", "Prefix", "Prompt"])
def test_every_adapter_trains_under_autocast(bucket: str, secret: Path, tmp_path: Path, kind: Any) -> None:
    layers = () if kind == "IA3" else ("all-linear",)
    adapter = ResolvedAdapterSpec(type=kind, rank=4, virtual_tokens=4, target_modules=layers)
    config = trained(bucket, secret, tmp_path / "work", adapter=adapter, steps=2, precision="BFloat16")
    assert len(metrics(config, secret)) == 2
