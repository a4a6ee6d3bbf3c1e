"""Several processes train as one: the same result within rounding, one voice, one end."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import Manifest, ResolvedAdapterSpec
from finetune_api.pods import JobConfig, Summary, Trained
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.methods import ClassificationMethod
from finetune_api.v1alpha1.training import MethodSpec
from ports import free_port
from prepared_jobs import (
    COLOURS,
    classes,
    colour_rows,
    job_store,
    lines_until,
    name_trackers,
    preferences,
    prepare_job,
    texts,
    train_here,
    training,
)
from stage_process import ForkedProgram, fork_stage

STEPS = 8
LORA: dict[str, Any] = {
    "rows": {"train": colour_rows(32), "validation": colour_rows(5, 200), "test": colour_rows(6, 100)},
    "adapter": ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.0),
    "settings": training(
        steps=STEPS,
        batch_size=8,
        micro_batch_size=2,
        checkpoint_every_steps=4,
        evaluate_every_steps=4,
        label_smoothing=0.1,
    ),
}
STOPPING = LORA | {
    # Every step makes this answer less likely. The row is one process's, and the other computes along.
    "rows": LORA["rows"] | {"validation": [{"prompt": "red thing 7\nColour:", "completion": "#~" * 15}]},
    "adapter": ResolvedAdapterSpec(type="Full"),
    "settings": training(
        steps=STEPS,
        batch_size=8,
        micro_batch_size=2,
        checkpoint_every_steps=4,
        learning_rate=1e-3,
        weight_decay=0.01,
        evaluate_every_steps=2,
        publish_best=True,
        patience=2,
    ),
}
SHORT = {
    "adapter": LORA["adapter"],
    "settings": training(
        steps=4, batch_size=8, micro_batch_size=2, checkpoint_every_steps=4, evaluate_every_steps=2, publish_best=True
    ),
}
PAIRS = SHORT | {"rows": {"train": preferences(16), "validation": preferences(5, 200), "test": preferences(6, 100)}}
METHODS: dict[str, dict[str, Any]] = {
    "sft": LORA,
    "cpt": SHORT
    | {
        "rows": {"train": texts(48), "validation": texts(1, 200), "test": texts(6, 100)},
        # Within an epoch: where processes fill up its last batch, they do so with rows of its first.
        "settings": training(steps=2, batch_size=4, micro_batch_size=1, packing=True, evaluate_every_steps=1),
    },
    "dpo": PAIRS,
    "orpo": PAIRS,
    "reward": PAIRS,
    "classification": SHORT
    | {
        "rows": {"train": classes(16), "validation": classes(5, 200), "test": classes(6, 100)},
        "method_settings": MethodSpec(
            classification=ClassificationMethod(labels=sorted(COLOURS), multi_label=False),
        ),
    },
}
Crew = list[ForkedProgram]


@contextmanager
def crew(config: JobConfig, secrets: Path, work: Path, size: int = 2) -> Iterator[Crew]:
    """So many processes of one training, each as if in a pod of its own."""
    port = str(free_port())
    shared = {"WORLD_SIZE": str(size), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for rank in range(size):
        (work / str(rank) / "ends").mkdir(parents=True)
    made = [
        fork_stage("finetune_trainer", "train", config, secrets, work / str(n), environment=shared | {"RANK": str(n)})
        for n in range(size)
    ]
    try:
        yield made
    finally:
        for process in made:
            process.kill()


def ends(made: Crew, work: Path) -> tuple[list[int | None], list[Summary], list[str]]:
    """Exit codes, last words and output of all."""
    outputs = [process.communicate(timeout=120)[0] for process in made]
    paths = [work / str(rank) / "ends" / str(rank) for rank in range(len(made))]
    said = [Summary.model_validate_json(path.read_bytes()) for path in paths]
    return [process.returncode for process in made], said, outputs


def losses(config: JobConfig, secrets: Path, member: str = "loss") -> list[float]:
    """Of every step, or of those with one."""
    lines = map(json.loads, job_store(config, secrets).get("metrics.jsonl").splitlines())
    return [line[member] for line in lines if member in line]


def assert_as_one(config: JobConfig, made: list[Summary], one: JobConfig, alone: Trained, secrets: Path) -> None:
    """What two processes came to is what one did."""
    together, nothing = made[0].trained, made[1].trained
    assert together is not None
    assert nothing is None, "one of them evaluates and publishes"
    for member in ("loss", "validationLoss"):
        assert losses(config, secrets, member) == pytest.approx(losses(one, secrets, member), rel=1e-4)
    assert alone.evaluation is not None
    assert together.evaluation is not None
    assert together.evaluation.tuned == pytest.approx(alone.evaluation.tuned, rel=1e-3)
    assert together.trained_tokens == alone.trained_tokens
    manifest = Manifest.model_validate_json(job_store(config, secrets).get("manifest.json"))
    assert any(each.path.endswith(".safetensors") for each in manifest.files)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_learns_in_two_processes_what_it_learns_in_one(
    bucket: str, secret: Path, tmp_path: Path, method: str
) -> None:
    secrets = secret.parent
    one, two = (prepare_job(bucket, secrets, name=name, method=method, **METHODS[method]) for name in ("one", "two"))
    alone = train_here(one, secrets, tmp_path / "one")
    with crew(two, secrets, tmp_path / "two") as made:
        codes, said, outputs = ends(made, tmp_path / "two")
    assert codes == [0, 0], outputs
    assert_as_one(two, said, one, alone, secrets)


def test_a_spread_model_stops_in_all_processes_and_goes_on(bucket: str, secret: Path, tmp_path: Path) -> None:
    secrets = secret.parent
    one, two = (prepare_job(bucket, secrets, name=name, **STOPPING) for name in ("one", "two"))
    alone = train_here(one, secrets, tmp_path / "one")
    assert alone.validation is not None
    assert (alone.validation.published_step, alone.validation.last_step) == (2, 6)

    name_trackers(job_store(two, secrets), {"mlflow": {"uri": "http://127.0.0.1:9", "experiment": "two"}})
    with crew(two, secrets, tmp_path / "first") as made:
        early = lines_until(made[0], "step 2/")
        made[1].send_signal(signal.SIGTERM)  # one pod is told, and all of them stop
        codes, said, outputs = ends(made, tmp_path / "first")
    assert codes == [143, 143], outputs
    assert "MLflow was not told" in "".join(early) + outputs[0]
    assert "MLflow" not in outputs[1], "one of them tells a tracker"
    name_trackers(job_store(two, secrets), {})
    assert [each.error.code for each in said if each.error] == [Reason.INTERRUPTED] * 2
    kept = [key for key in job_store(two, secrets).list("checkpoints/") if key.endswith("/rng_state_1.pth")]
    assert kept, "the random numbers of each are in the first one's checkpoint"

    with pytest.raises(Failure, match="was written by 2 processes and this training has 1"):
        train_here(two, secrets, tmp_path / "other")

    with crew(two, secrets, tmp_path / "second") as made:
        codes, said, outputs = ends(made, tmp_path / "second")
    assert codes == [0, 0], outputs
    assert "resuming from the checkpoint of step" in outputs[0]
    assert_as_one(two, said, one, alone, secrets)
    assert said[0].trained is not None
    assert said[0].trained.validation is not None
    assert said[0].trained.validation.message == alone.validation.message
