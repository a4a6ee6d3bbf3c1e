"""Rows that lie in gs:// already: prepared by the trainer, and read by Vertex where they lie. Google is played (vertex_stand_in)."""

from pathlib import Path
from typing import Any

import pytest

from delegated_jobs import run_here
from finetune_api.artifacts import ResolvedDelegation
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_stage.outcome import Places
from finetune_storage.google_cloud import Bucket
from finetune_trainer import prepare
from json_lines import jsonl
from prepared_jobs import UID, colour_chats, job_store
from stand_in import Fault
from vertex_stand_in import BASE, LOCATION, PARENT, PROJECT, Vertex

JOBS = f"/v1(beta1)?/{PARENT}/tuningJobs"
ROLES = {"user": "user", "assistant": "model"}


def in_vertexs_shape(rows: list[dict[str, Any]]) -> bytes:
    """As somebody wrote them for Vertex, with a field only Vertex knows."""
    lines = [
        {
            "contents": [
                {"role": ROLES[turn["role"]], "parts": [{"text": turn["content"]}]} for turn in row["messages"]
            ],
            "labels": {"made": "by hand"},
        }
        for row in rows
    ]
    return jsonl(lines)


def a_job(bucket: str, vertex: Vertex, train: str, **dataset: Any) -> JobConfig:
    google = {"name": "google"}
    backend = {
        "project": PROJECT, "location": LOCATION, "stagingUri": "gs://rows/team", "secretRef": google,
        "baseUrl": vertex.url, "storageUrl": vertex.url,
    }  # fmt: skip
    sources = {name: {"uri": uri, "secretRef": google} for name, uri in dataset.items()}
    spec = {
        "baseModel": {"uri": f"vertex://{BASE}"},
        "dataset": {"train": {"uri": train, "secretRef": google}, **sources},
        "output": {"uri": bucket, "secretRef": {"name": "s3"}},
        "backend": {"vertex": backend},
    }
    return JobConfig(
        namespace="team-a", name="tiny", uid=UID, spec=FineTuneJobSpec.model_validate(spec),
        base_model=ResolvedBaseModel(uri=f"vertex://{BASE}"), image="trainer@sha256:0",
    )  # fmt: skip


def prepared(config: JobConfig, secrets_dir: Path, work: Path) -> ResolvedDelegation:
    work.mkdir()
    prepare.run(config, Places(secrets_dir=secrets_dir, work_dir=work, secret_wait=0.2))
    return ResolvedDelegation.model_validate_json(job_store(config, secrets_dir).get("resolved.json"))


def test_rows_in_vertexs_own_shape_are_used_in_place(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path
) -> None:
    vertex.objects |= {
        "data/train.jsonl": in_vertexs_shape(colour_chats(12)),
        "data/watched.jsonl": in_vertexs_shape(colour_chats(4, first=50)),
        "data/test.jsonl": in_vertexs_shape(colour_chats(6, first=100)),
    }
    config = a_job(
        bucket, vertex, "gs://data/train.jsonl", validation="gs://data/watched.jsonl", test="gs://data/test.jsonl"
    )
    resolved = prepared(config, secrets_dir, tmp_path / "prepare")
    assert [each.uri for each in resolved.in_place] == ["gs://data/train.jsonl", "gs://data/watched.jsonl"]
    trained = run_here(config, secrets_dir, tmp_path / "train")
    (sent,) = vertex.asked("POST", JOBS)
    assert sent.json["supervisedTuningSpec"] == {
        "trainingDatasetUri": "gs://data/train.jsonl", "validationDatasetUri": "gs://data/watched.jsonl",
    }  # fmt: skip
    assert vertex.asked("POST", "/upload/.+") == []
    assert trained.evaluation is not None
    assert trained.evaluation.tuned == {"ExactMatch": 1.0}


def test_rows_written_anew_since_they_were_checked_are_not_sent(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path
) -> None:
    vertex.objects["data/train.jsonl"] = in_vertexs_shape(colour_chats(12))
    config = a_job(bucket, vertex, "gs://data/train.jsonl")
    prepared(config, secrets_dir, tmp_path / "prepare")
    vertex.objects["data/train.jsonl"] += b"{}\n"
    with pytest.raises(Failure) as raised:
        run_here(config, secrets_dir, tmp_path / "train")
    assert raised.value.reason is Reason.DATA_INVALID
    assert "gs://data/train.jsonl was written anew since its rows were checked" in raised.value.message
    assert vertex.jobs == {}


@pytest.mark.parametrize("written", [
    pytest.param({"data/train.jsonl": in_vertexs_shape([*colour_chats(12), *colour_chats(1)])}, id="a duplicate"),
    pytest.param({"data/train.json": in_vertexs_shape(colour_chats(12))}, id="another kind of file"),
    pytest.param(
        {f"data/train{n}.jsonl": in_vertexs_shape(colour_chats(4, first=4 * n)) for n in range(3)}, id="several files"
    ),
    pytest.param({"data/train.jsonl": jsonl(colour_chats(12))}, id="another shape"),
])  # fmt: skip
def test_other_rows_of_a_bucket_are_uploaded_in_vertexs_shape(
    bucket: str, secrets_dir: Path, vertex: Vertex, tmp_path: Path, written: dict[str, bytes]
) -> None:
    vertex.objects |= written
    resolved = prepared(a_job(bucket, vertex, "gs://data/train*"), secrets_dir, tmp_path / "prepare")
    assert resolved.in_place == []
    assert resolved.splits[0].statistics.rows == 12


@pytest.mark.parametrize(("fault", "reason", "says"), [
    pytest.param(None, Reason.DATASET_NOT_FOUND, "gs://data/train.jsonl: there is no such object", id="missing"),
    pytest.param(
        Fault("GET", "/storage/.+", 403, {"error": {"code": 403, "message": "no storage.objects.get"}}),
        Reason.ACCESS_DENIED, "no storage.objects.get", id="forbidden",
    ),
    pytest.param(Fault("GET", "/storage/.+", 503, times=99), Reason.STORAGE_UNAVAILABLE, "no answer", id="away"),
])  # fmt: skip
def test_a_bucket_that_cannot_be_read_is_named(
    secrets_dir: Path, vertex: Vertex, tmp_path: Path, fault: Fault | None, reason: Reason, says: str
) -> None:
    vertex.faults += [fault] if fault else []
    bucket = Bucket("data", secrets_dir / "google", patience=0.1, url=vertex.url)
    with pytest.raises(Failure) as raised:
        bucket.download("train.jsonl", tmp_path / "train.jsonl")
    assert raised.value.reason is reason
    assert says in raised.value.message
