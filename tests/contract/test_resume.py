"""An interrupted run ends with the same weights as an uninterrupted one, to the last bit."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.pods import JobConfig, Summary
from finetune_api.reasons import Reason
from finetune_api.v1alpha1.methods import ClassificationMethod
from finetune_api.v1alpha1.reinforcement import PpoMethod, RegexReward, RewardSpec
from finetune_api.v1alpha1.training import MethodSpec
from prepared_jobs import (
    COLOURS,
    TINY,
    colour_rows,
    job_store,
    lines_until,
    preferences,
    prepare_job,
    start_train,
    texts,
    train_here,
    training,
    verdicts,
)
from published_models import weights
from s3_server import serve

STEPS = 24
LORA: dict[str, Any] = {
    "rows": {"train": colour_rows(46), "test": colour_rows(6, 100)},  # 46 rows: the last batch of an epoch is smaller
    "adapter": ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.2),
    "settings": training(steps=STEPS, checkpoint_every_steps=4),
}
CPT = {
    "rows": {"train": texts(160), "test": texts(6, 200)},
    "method": "cpt",
    "adapter": ResolvedAdapterSpec(type="Full"),
    "from_config": TINY,
    "settings": training(steps=STEPS, checkpoint_every_steps=4, packing=True, learning_rate=3e-3),
}
PACKED = LORA | {"settings": training(steps=STEPS, checkpoint_every_steps=4, packing=True)}
DPO = LORA | {"rows": {"train": preferences(46), "test": preferences(6, 100)}, "method": "dpo"}
REWARD = DPO | {"method": "reward"}
ORPO = DPO | {"method": "orpo"}
KTO = LORA | {"rows": {"train": verdicts(23), "test": verdicts(6, 100)}, "method": "kto"}
PPO = LORA | {
    "method": "ppo",
    "adapter": ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.0),
    "method_settings": MethodSpec(
        ppo=PpoMethod(
            rewards=[RewardSpec(regex=RegexReward(pattern="[a-m]"))],
            max_new_tokens=4,
            temperature=1.0,
            kl_coefficient=0.05,
            clip_range=0.2,
            gamma=1.0,
            gae_lambda=0.95,
            epochs=2,
            value_coefficient=0.1,
        )
    ),
}
LORA_PLUS = LORA | {
    "adapter": ResolvedAdapterSpec(type="LoraPlus", rank=4, alpha=8, dropout=0.2, learning_rate_ratio=8.0)
}
DORA = LORA | {"adapter": ResolvedAdapterSpec(type="DoRA", rank=4, alpha=8, dropout=0.2)}
NEW_TOKENS = LORA | {
    "rows": {
        split: [row | {"completion": f" <tool>{row['completion'].strip()}</tool>"} for row in rows]
        for split, rows in LORA["rows"].items()
    },
    "adapter": ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.2, new_tokens=("<tool>", "</tool>")),
}
CLASSIFICATION = LORA | {
    "rows": {
        split: [{"text": row["prompt"], "labels": [row["completion"].strip()]} for row in rows]
        for split, rows in LORA["rows"].items()
    },
    "method": "classification",
    "method_settings": MethodSpec(
        classification=ClassificationMethod(labels=sorted(COLOURS), multi_label=False),
    ),
}
QLORA = LORA | {
    "adapter": ResolvedAdapterSpec(type="QLoRA", rank=4, alpha=8, dropout=0.2),
}
IA3 = LORA | {"adapter": ResolvedAdapterSpec(type="IA3", target_modules=())}
PREFIX = LORA | {"adapter": ResolvedAdapterSpec(type="Prefix", virtual_tokens=4)}
PROMPT = LORA | {"adapter": ResolvedAdapterSpec(type="Prompt", virtual_tokens=4)}
SECOND_STORED = "checkpoint of step 8 committed"  # stored beside the training, so steps later than 8
LONGEST_STOP = 20
"""Seconds from SIGTERM to the end, the checkpoint stored."""
TERM, KILL = (signal.SIGTERM, 143), (signal.SIGKILL, -9)


def checkpoint_steps(config: JobConfig, secrets_dir: Path) -> list[int]:
    """Steps of the committed checkpoints."""
    keys = job_store(config, secrets_dir).list("checkpoints/")
    return sorted(int(key.split("-")[1].split("/")[0]) for key in keys if key.endswith("/manifest.json"))


def interrupt(config: JobConfig, secrets_dir: Path, work: Path, line: str, number: int) -> int:
    """Run in a process of its own and send it a signal when it has printed a line; its exit code."""
    process = start_train(config, secrets_dir, work)
    try:
        lines_until(process, line)
        process.send_signal(number)
        process.communicate(timeout=LONGEST_STOP)
    finally:
        process.kill()
    assert not job_store(config, secrets_dir).exists("manifest.json"), "it was too fast to be interrupted"
    return process.returncode


@pytest.mark.parametrize(
    ("case", "number", "code"),
    [
        pytest.param(LORA, *TERM, id="sft-lora-SIGTERM"),
        pytest.param(LORA, *KILL, id="sft-lora-SIGKILL"),
        pytest.param(CPT, *TERM, id="cpt-full-packed-SIGTERM"),
        pytest.param(CPT, *KILL, id="cpt-full-packed-SIGKILL"),
        pytest.param(PACKED, *KILL, id="sft-lora-packed-SIGKILL"),
        pytest.param(DPO, *KILL, id="dpo-lora-SIGKILL"),
        pytest.param(REWARD, *KILL, id="reward-lora-SIGKILL"),
        pytest.param(ORPO, *KILL, id="orpo-lora-SIGKILL"),
        pytest.param(KTO, *KILL, id="kto-lora-SIGKILL"),
        pytest.param(PPO, *KILL, id="ppo-lora-SIGKILL"),
        pytest.param(LORA_PLUS, *KILL, id="sft-loraplus-SIGKILL"),
        pytest.param(DORA, *KILL, id="sft-dora-SIGKILL"),
        pytest.param(CLASSIFICATION, *KILL, id="classification-lora-SIGKILL"),
        pytest.param(QLORA, *KILL, id="sft-qlora-SIGKILL"),
        pytest.param(NEW_TOKENS, *KILL, id="sft-new-tokens-SIGKILL"),
        pytest.param(IA3, *KILL, id="sft-ia3-SIGKILL"),
        pytest.param(PREFIX, *KILL, id="sft-prefix-SIGKILL"),
        pytest.param(PROMPT, *KILL, id="sft-prompt-SIGKILL"),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    bucket: str,
    secret: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: dict[str, Any],
    number: int,
    code: int,
) -> None:
    whole = prepare_job(bucket, secret.parent, name="whole", **case)
    broken = prepare_job(bucket, secret.parent, name="broken", **case)
    expected = train_here(whole, secret.parent, tmp_path / "whole")
    assert interrupt(broken, secret.parent, tmp_path / "first", SECOND_STORED, number) == code
    stopped_at = checkpoint_steps(broken, secret.parent)[-1]
    if number == signal.SIGTERM:
        assert stopped_at > 8, "SIGTERM commits the step that was under way"
        summary = Summary.model_validate_json((tmp_path / "first" / "end").read_bytes())
        assert summary.error is not None
        assert summary.error.code == Reason.INTERRUPTED
    capsys.readouterr()
    found = train_here(broken, secret.parent, tmp_path / "second")
    said = capsys.readouterr().out
    assert f"resuming from the checkpoint of step {stopped_at} of {STEPS}" in said
    assert f"step {stopped_at}/" not in said, "what is stored is not done again"
    assert weights(broken, secret) == weights(whole, secret)
    assert (found.trained_tokens, found.steps, found.loss) == (expected.trained_tokens, STEPS, expected.loss)
    assert logged(broken, secret.parent) == logged(whole, secret.parent)
    assert checkpoint_steps(broken, secret.parent) == [STEPS - 4, STEPS]


def logged(config: JobConfig, secrets_dir: Path) -> list[tuple[int, float]]:
    """Step and loss of every line of metrics.jsonl."""
    lines = job_store(config, secrets_dir).get("metrics.jsonl").splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def test_corrupt_and_torn_checkpoints_are_skipped(
    bucket: str, secret: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = prepare_job(bucket, secret.parent, name="whole", **LORA)
    broken = prepare_job(bucket, secret.parent, name="broken", **LORA)
    train_here(whole, secret.parent, tmp_path / "whole")
    interrupt(broken, secret.parent, tmp_path / "first", SECOND_STORED, signal.SIGKILL)
    store, (before, newest) = job_store(broken, secret.parent), checkpoint_steps(broken, secret.parent)
    store.put(f"checkpoints/step-{newest:06d}/optimizer.pt", b"not what was written")
    store.put(f"checkpoints/step-{newest + 4:06d}/optimizer.pt", b"a torn checkpoint has no manifest")
    capsys.readouterr()
    train_here(broken, secret.parent, tmp_path / "second")
    said = capsys.readouterr().out
    assert f"checkpoint of step {newest} skipped" in said
    assert f"checkpoint of step {newest + 4} skipped" in said
    assert f"resuming from the checkpoint of step {before} of {STEPS}" in said
    assert weights(broken, secret) == weights(whole, secret)
    assert checkpoint_steps(broken, secret.parent) == [STEPS - 4, STEPS]


def test_without_a_valid_checkpoint_it_begins_anew(bucket: str, secret: Path, tmp_path: Path) -> None:
    case = LORA | {"settings": training(steps=4)}
    whole = prepare_job(bucket, secret.parent, name="whole", **case)
    broken = prepare_job(bucket, secret.parent, name="broken", **case)
    job_store(broken, secret.parent).put("checkpoints/step-000002/manifest.json", b"{}")
    train_here(whole, secret.parent, tmp_path / "whole")
    train_here(broken, secret.parent, tmp_path / "broken")
    assert weights(broken, secret) == weights(whole, secret)


def test_a_store_that_is_down_is_waited_for(bucket: str, secret: Path, tmp_path: Path) -> None:
    whole = prepare_job(bucket, secret.parent, name="whole", **LORA)
    train_here(whole, secret.parent, tmp_path / "whole")
    with serve(tmp_path / "own") as server:
        own = server.secret(tmp_path / "own-secrets" / "s3")
        config = prepare_job(server.bucket("models"), own.parent, name="whole", **LORA)
        process = start_train(config, own.parent, tmp_path / "work")
        lines_until(process, "step 9/")
        server.stop()
        waiting = lines_until(process, "s3://")[-1]
        assert "no answer" in waiting, waiting
        server.start()
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
        assert weights(config, own) == weights(whole, secret)


WRONG = [
    row | {"completion": colour}
    for row in colour_rows(8, 100)
    for colour in COLOURS
    if colour not in str(row["completion"])
][:6]
"""The shape of an answer is learned from the training rows; and then that these answers are wrong."""
STOPPING = {
    "rows": {"train": colour_rows(46), "validation": WRONG},
    "adapter": ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.2),
    "settings": training(
        steps=60,
        learning_rate=3e-2,
        checkpoint_every_steps=4,
        keep_checkpoints=1,
        evaluate_every_steps=3,
        publish_best=True,
        patience=3,
    ),
}
REVERSED = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in preferences(6, 100)]
PREFERRING = STOPPING | {"method": "dpo", "rows": {"train": preferences(46), "validation": REVERSED}}


def losses(config: JobConfig, secrets_dir: Path) -> dict[int, float]:
    """Validation losses of metrics.jsonl by step."""
    lines = map(json.loads, job_store(config, secrets_dir).get("metrics.jsonl").splitlines())
    return {line["step"]: line["validationLoss"] for line in lines if "validationLoss" in line}


@pytest.mark.parametrize("case", [pytest.param(STOPPING, id="sft"), pytest.param(PREFERRING, id="dpo")])
def test_it_stops_and_publishes_its_best_interrupted_or_not(
    bucket: str, secret: Path, tmp_path: Path, case: dict[str, Any]
) -> None:
    whole, broken = (prepare_job(bucket, secret.parent, name=name, **case) for name in ("whole", "broken"))
    trained = train_here(whole, secret.parent, tmp_path / "whole")
    ending, measured = trained.validation, losses(whole, secret.parent)
    assert ending is not None
    assert list(measured) == list(range(3, ending.last_step + 1, 3))
    assert ending.published_step == min(measured, key=lambda step: measured[step])
    assert ending.last_step == trained.steps == ending.published_step + 9 < 60
    assert checkpoint_steps(whole, secret.parent) == [ending.published_step, ending.last_step]
    assert ending.message in job_store(whole, secret.parent).get("report.html").decode()
    assert ending.loss == measured[ending.published_step]
    if case is STOPPING:
        assert trained.evaluation is not None
        assert trained.evaluation.tuned["Loss"] == ending.loss, "the weights are those of the best step"
    assert (
        interrupt(broken, secret.parent, tmp_path / "first", f"step {ending.published_step + 3}/", signal.SIGKILL) == -9
    )
    again = train_here(broken, secret.parent, tmp_path / "second")
    assert again.validation == ending
    assert losses(broken, secret.parent) == measured
    assert weights(broken, secret) == weights(whole, secret)
    store = job_store(broken, secret.parent)
    store.delete(["manifest.json"])
    third = train_here(broken, secret.parent, tmp_path / "third")
    assert third.artifact.digest == again.artifact.digest, "only the publishing was left"
