"""What experiment trackers read is read by them: every logged step once, after a second attempt too."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wandb_server
from finetune_api.artifacts import Manifest
from finetune_stage.record import published
from finetune_storage import fetch_folder
from finetune_trainer import wandb_run
from prepared_jobs import UID, colour_rows, job_store, name_trackers, prepare_job, train_here, training


def test_every_tracker_reads_the_logged_figures(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepare_job(bucket, secret.parent, {"train": colour_rows(16)}, settings=training(steps=4))
    store = job_store(config, secret.parent)
    away = {"uri": "http://127.0.0.1:9", "experiment": "colours"}
    name_trackers(store, {"tensorboard": {}, "wandb": {"project": "colours/2"}, "mlflow": away})
    first = train_here(config, secret.parent, tmp_path / "first")
    wandb, mlflow = (first.tracking_error or "").split("; ")
    assert wandb.startswith("tracking.wandb failed: Invalid project name")
    assert mlflow.startswith("tracking.mlflow failed: API request to http://127.0.0.1:9/")
    assert first == published(store), "what cannot be told to a tracker is published all the same"
    assert store.list("tracking/tensorboard/")
    assert not store.list("tracking/wandb/")
    store.delete(["manifest.json"])
    name_trackers(store, {"tensorboard": {}, "wandb": {"project": "colours", "entity": "team"}})
    second = train_here(config, secret.parent, tmp_path / "second")
    assert second.tracking_error is None
    assert second.artifact == first.artifact
    lines = [json.loads(line) for line in store.get("metrics.jsonl").splitlines()]
    losses = {line["step"]: pytest.approx(line["loss"], rel=1e-6) for line in lines}
    assert len(losses) == 4
    listed = {entry.path for entry in Manifest.model_validate_json(store.get("manifest.json")).files}
    assert set(store.list("tracking/")) == {path for path in listed if path.startswith("tracking/")}
    fetch_folder(store, "", tmp_path / "published", None, lambda path: path.startswith("tracking/"))
    folder = tmp_path / "published" / "tracking"
    assert tensorboard_losses(folder / "tensorboard") == losses
    run, history = stored_run(folder / "wandb")
    assert (run.run_id, run.project, run.entity, run.display_name) == (UID, "colours", "team", "team-a/tiny")
    assert history == losses
    store.delete(["manifest.json"])
    name_trackers(store, {"tensorboard": {}})
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    third = train_here(config, secret.parent, tmp_path / "third")
    assert third.artifact == first.artifact, "a library that breaks costs its curves only"
    assert (third.tracking_error or "").startswith("tracking.tensorboard failed: import of torch.utils.tensorboard")


def test_a_run_is_sent_with_the_key_of_its_secret(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepare_job(bucket, secret.parent, {"train": colour_rows(16)}, settings=training(steps=4))
    store, key = job_store(config, secret.parent), secret.parent / "wandb" / "WANDB_API_KEY"
    key.parent.mkdir()

    def published_again(uri: str, work: str) -> str | None:
        store.delete(["manifest.json"])
        stated = {"project": "colours", "entity": "team", "uri": uri, "secretRef": {"name": "wandb"}}
        name_trackers(store, {"wandb": stated})
        trained = train_here(config, secret.parent, tmp_path / work)
        assert store.list("tracking/wandb/"), "the files are there, sent or not"
        return trained.tracking_error

    with wandb_server.serve() as received:
        said = published_again(received.uri, "no-key")
        assert said is not None
        assert "tracking.wandb failed: Secret 'wandb' has no key WANDB_API_KEY" in said
        key.write_text("f" * 40)
        said = published_again(received.uri, "wrong-key")
        assert said is not None
        assert said.startswith("tracking.wandb failed: wandb sync: ")
        assert said.endswith("look at the key, the entity and the uri")
        assert not received.runs
        key.write_text(wandb_server.API_KEY)
        assert published_again(received.uri, "sent") is None
    run = received.runs[0]
    assert [run[name] for name in ("name", "project", "entity", "displayName")] == [
        UID,
        "colours",
        "team",
        "team-a/tiny",
    ]
    lines = [json.loads(line) for line in store.get("metrics.jsonl").splitlines()]
    losses = {line["step"]: pytest.approx(line["loss"], rel=1e-6) for line in lines}
    assert {line["_step"]: line["loss"] for line in received.history} == losses
    monkeypatch.setattr(wandb_run, "LONGEST_SECONDS", 5)
    assert published_again(received.uri, "away") == "tracking.wandb failed: the server did not take the run within 5 s"


def tensorboard_losses(folder: Path) -> dict[int, float]:
    """As TensorBoard's own reader finds them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"loss", "learningRate", "gradNorm"} <= set(events.Tags()["scalars"])
    return {event.step: event.value for event in events.Scalars("loss")}


def stored_run(folder: Path) -> tuple[Any, dict[int, float]]:
    """The run and its losses by step, as ``wandb sync`` would send them."""
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = folder.rglob("*.wandb")
    run, history = None, {}
    for data in records(file.read_bytes()):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "run":
            run = record.run
        for item in record.history.item:
            if "loss" in (item.key, *item.nested_key):
                history[record.history.step.num] = json.loads(item.value_json)
    return run, history


def records(data: bytes) -> Iterator[bytes]:
    """Of a log of one block in LevelDB's format: checksum, length, kind, and so many bytes each."""
    assert data.startswith(b":W&B")
    assert len(data) < 32_768
    at = 7
    while at < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, at)
        assert kind == 1, "whole"
        yield data[at + 7 : at + 7 + length]
        at += 7 + length
