"""A row whose loss is no number: it is named, its gradient never becomes weights."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Failure, Reason
from prepared_jobs import Rows, colour_rows, job_store, preferences, prepare_job, texts, train_here, training, verdicts
from published_models import metrics
from tiny_models import write_tiny_llama

DAMAGED = "~"
"""A token of one row only, whose embedding in the base is no number."""
PLACE = 17


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with a damaged embedding; its output layer is whole, so that other rows do not notice."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_tiny_llama(tmp_path_factory.mktemp("damaged") / "base", tied=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    (token,) = AutoTokenizer.from_pretrained(folder)(DAMAGED)["input_ids"]
    model.get_input_embeddings().weight.data[token] = float("nan")
    model.save_pretrained(folder)
    return folder


def with_damage(rows: Rows, field: str, place: int = PLACE) -> Rows:
    return [row | {field: f"{DAMAGED}{row[field]}"} if number == place else row for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        pytest.param({"rows": with_damage(colour_rows(24), "completion")}, {18}, id="sft"),
        pytest.param({"rows": with_damage(colour_rows(24), "prompt"), "packing": True}, None, id="packed"),
        pytest.param({"rows": with_damage(texts(24), "text"), "method": "cpt", "packing": True}, None, id="cpt"),
        pytest.param({"rows": with_damage(preferences(24), "prompt"), "method": "dpo"}, {18}, id="dpo"),
        pytest.param({"rows": with_damage(verdicts(12), "prompt"), "method": "kto", "micro": 2}, None, id="kto"),
    ],
)
def test_the_rows_of_a_loss_that_is_no_number_are_named(
    bucket: str, secret: Path, tmp_path: Path, base: Path, case: dict[str, Any], lines: set[int] | None
) -> None:
    settings = training(
        steps=6, checkpoint_every_steps=1, micro_batch_size=case.get("micro", 1), packing=case.get("packing", False)
    )
    method = case.get("method", "sft")
    config = prepare_job(bucket, secret.parent, {"train": case["rows"]}, method=method, settings=settings, base=base)
    with pytest.raises(
        Failure, match=r"the loss became nan in step \d on lines? [\d, ]+ of s3://.*/data/train.jsonl;"
    ) as found:
        train_here(config, secret.parent, tmp_path / "work")
    assert found.value.reason is Reason.NON_FINITE_LOSS
    named = {int(word) for word in found.value.message.split(" of s3")[0].split("line")[1].lstrip("s ").split(", ")}
    assert named == lines if lines else PLACE + 1 in named
    assert len(named) < 12
    step = int(found.value.message.split("in step ")[1].split()[0])
    kept = {key.split("/")[1] for key in job_store(config, secret.parent).list("checkpoints/step-")}
    assert kept <= {f"step-{number:06d}" for number in range(1, step)}, "none of the step's weights"


SKIPPING = training(
    steps=6, micro_batch_size=1, checkpoint_every_steps=1, keep_checkpoints=9, on_non_finite_loss="SkipBatch"
)


def test_a_batch_is_left_out_once_interrupted_or_not(bucket: str, secret: Path, tmp_path: Path, base: Path) -> None:
    rows = {"train": with_damage(colour_rows(24), "completion")}
    config = prepare_job(bucket, secret.parent, rows, settings=SKIPPING, base=base)
    whole = train_here(config, secret.parent, tmp_path / "whole")
    said = re.fullmatch(
        r"the batch of step (\d) was left out, as its loss became nan on line 18 of s3://.*/train.jsonl",
        whole.skipped_batch or "",
    )
    assert said is not None, whole.skipped_batch
    store, step = job_store(config, secret.parent), int(said[1])
    lines = metrics(config, secret)
    assert [line["step"] for line in lines] == [number for number in range(1, 7) if number != step]
    assert all(math.isfinite(line["loss"]) for line in lines)
    for newest in (step - 1, step, 6):  # before it, just after it, and when only the publishing is left
        later = [key for key in store.list("checkpoints/") if int(key.split("-")[1][:6]) > newest]
        store.delete(["manifest.json", *later])
        again = train_here(config, secret.parent, tmp_path / f"from-{newest}")
        assert (again.artifact.digest, again.skipped_batch) == (whole.artifact.digest, whole.skipped_batch)


def test_a_second_batch_fails(bucket: str, secret: Path, tmp_path: Path, base: Path) -> None:
    rows = with_damage(with_damage(colour_rows(24), "completion"), "completion", 3)
    config = prepare_job(bucket, secret.parent, {"train": rows}, settings=SKIPPING, base=base)
    with pytest.raises(
        Failure, match=r"on line (4|18) of .*, and the batch of step \d was left out, .* on line (4|18) of"
    ):
        train_here(config, secret.parent, tmp_path / "work")
