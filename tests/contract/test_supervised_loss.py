"""The loss of supervised fine-tuning on a CPU is TRL's, computed in another way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from trl import SFTConfig, SFTTrainer

from finetune_trainer.methods.sft import SupervisedTrainer
from tiny_models import tiny_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}


def dense() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def mixture() -> Any:
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS, router_aux_loss_coef=0.5))


@pytest.mark.parametrize("build", [dense, mixture])
@pytest.mark.parametrize("items", [None, 10])
def test_the_loss_and_its_gradients_are_those_of_trl(tmp_path: Path, build: Any, items: int | None) -> None:
    torch.manual_seed(0)
    rows = Dataset.from_list([{"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]}])
    made = SupervisedTrainer(
        model=build(),
        args=SFTConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[]),
        train_dataset=rows,
        processing_class=tiny_tokenizer(),
    )
    made.current_gradient_accumulation_steps = 4
    batch = {
        "input_ids": torch.randint(0, 320, (3, 12)),
        "attention_mask": torch.ones(3, 12, dtype=torch.long),
        "labels": torch.randint(0, 320, (3, 12)).masked_fill(torch.rand(3, 12) < 0.4, -100),
    }
    found = []
    for compute in (SFTTrainer.compute_loss, SupervisedTrainer.compute_loss):
        made.model.zero_grad()
        loss = compute(made, made.model, dict(batch), num_items_in_batch=items)
        loss.backward()
        found.append((loss.item(), [weight.grad.clone() for weight in made.model.parameters()]))
    (theirs, expected), (ours, gradients) = found
    assert ours == pytest.approx(theirs, rel=1e-5)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-6)
