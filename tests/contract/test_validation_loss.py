"""The loss that is measured on validation rows is what the method lowers: its training loss, without dropout."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.methods import DpoMethod, KtoMethod
from finetune_api.v1alpha1.training import MethodSpec
from finetune_stage.rows import Row
from finetune_trainer import methods, train
from finetune_trainer.adapter import add_adapter
from finetune_trainer.encode import Encoder
from finetune_trainer.machine import Numerics
from finetune_trainer.methods.lesson import HeldOut, Lesson
from finetune_trainer.validation import Sums
from finetune_trainer.world import World
from prepared_jobs import job_store, preferences, prepare_job, train_here, training, verdicts
from tiny_models import tiny_tokenizer, write_tiny_llama

MIXED = MethodSpec(dpo=DpoMethod(loss_types=["Sigmoid", "Ipo", "Sft"], loss_weights=[1.0, 0.1, 0.5]))
UNPAIRED = MethodSpec(kto=KtoMethod(loss_type="ApoZeroUnpaired", desirable_weight=0.7, undesirable_weight=1.3))
LONGER = [row | {"chosen": row["chosen"] * (1 + number % 3)} for number, row in enumerate(preferences(6))]
GOOD = [row for row in verdicts(6) if row["label"]]
"""Learning them makes answers more probable behind each other's prompts too: the distance that kto subtracts."""
CASES = [
    pytest.param("dpo", MIXED, LONGER, 1, id="dpo, mixed losses"),
    pytest.param("orpo", MethodSpec(), preferences(6), 2, id="orpo"),
    pytest.param("kto", MethodSpec(), GOOD, 6, id="kto, a batch of all rows"),
    pytest.param("kto", UNPAIRED, verdicts(3), 2, id="kto, unpaired"),
]


@pytest.mark.parametrize(("method", "settings", "rows", "micro_batch"), CASES)
def test_it_is_what_the_next_step_lowers_on_the_same_rows(
    bucket: str, secret: Path, tmp_path: Path, method: str, settings: MethodSpec, rows: Any, micro_batch: int
) -> None:
    config = prepare_job(
        bucket,
        secret.parent,
        {"train": rows, "validation": rows},
        method=method,
        method_settings=settings,
        adapter=ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.0),
        settings=training(
            steps=4, batch_size=6, micro_batch_size=micro_batch, evaluate_every_steps=1, checkpoint_every_steps=4
        ),
    )
    train_here(config, secret.parent, tmp_path / "work")
    lines = [json.loads(line) for line in job_store(config, secret.parent).get("metrics.jsonl").splitlines()]
    assert len(lines) == 4
    assert [line["validationLoss"] for line in lines[:-1]] == pytest.approx(
        [line["loss"] for line in lines[1:]], rel=1e-4
    )


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_processes_share_the_rows_and_dropout_takes_no_part(tmp_path: Path, method: str) -> None:
    tokenizer = tiny_tokenizer()
    encoder = Encoder(tokenizer, "Preference", True, None)
    rows = [Row(str(number), fields) for number, fields in enumerate(preferences(5))]
    spec = ResolvedAdapterSpec(type="LoRA", rank=4, alpha=8, dropout=0.5)
    settings = training(batch_size=2, micro_batch_size=2)
    resolved: Any = SimpleNamespace(method_settings=MethodSpec(), adapter=spec, training=settings)
    arguments = train.arguments(settings, Numerics("cpu", bf16=False), 1, tmp_path, World())

    def measured(world: World) -> Sums:
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model = add_adapter(base, spec, seed=1)
        learned = methods.load(method).dataset(encoder, preferences(2), resolved)
        held_out = HeldOut(encoder, rows, world)
        trainer = methods.load(method).trainer(
            Lesson(model, tokenizer, learned, arguments, resolved, [], None, held_out)
        )
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(std=0.1)
        found = [trainer.own_loss(model.train()) for _ in range(2)]
        assert found[0] == found[1]
        assert model.training, "dropout is the training's again"
        return found[0]

    write_tiny_llama(tmp_path / "base")
    alone, *shares = (measured(World(*each)) for each in [(0, 1), (0, 2), (1, 2)])
    assert [each.weight for each in (alone, *shares)] == [5, 3, 2]
    assert sum(each.loss for each in shares) == pytest.approx(alone.loss, rel=1e-5)


def test_one_answer_is_nothing_for_kto_to_compare(bucket: str, secret: Path, tmp_path: Path) -> None:
    rows = {"train": verdicts(4), "validation": verdicts(1)[:1]}
    config = prepare_job(bucket, secret.parent, rows, method="kto", settings=training(steps=2, evaluate_every_steps=1))
    with pytest.raises(Failure, match="compares the answers of the validation rows, and one is none") as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.DATA_INVALID
