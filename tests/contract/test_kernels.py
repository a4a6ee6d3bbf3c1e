"""Fused kernels beside PyTorch's layers: the same logits, losses and gradients, within what rounding makes of them."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from finetune_trainer.kernels import fuse
from finetune_trainer.memory import DECODERS
from prepared_jobs import LORA, ROWS, prepare_job, train_here, training
from published_models import metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's kernels run on GPUs"),
]

CONFIGS = [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config]
LENGTH, VOCABULARY = 256, 512


def model(kind: Any, adapter: str, dtype: torch.dtype, *, fused: bool) -> Any:
    """A small decoder with the same weights every time."""
    torch.manual_seed(1)
    config = kind(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=VOCABULARY,
    )
    made = AutoModelForCausalLM.from_config(config, dtype=dtype).cuda()
    if fused:
        fuse(made)
    if adapter == "Full":
        return made
    torch.manual_seed(2)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=8,
        target_modules="all-linear",
        init_lora_weights=False,
        use_dora=adapter == "DoRA",
    )
    return get_peft_model(made, settings)


def inputs(shape: str) -> dict[str, torch.Tensor]:
    """Rows that are full, padded, or packed from two."""
    torch.manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (2, LENGTH)).cuda()
    mask, labels = torch.ones_like(ids), ids.clone()
    if shape == "packed":
        half = torch.arange(LENGTH // 2).repeat(2)[None].cuda()
        return {"input_ids": ids[:1], "labels": labels[:1], "position_ids": half}
    if shape == "padded":
        mask[1, LENGTH // 2 :] = 0
        labels[mask == 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def step(made: Any, batch: dict[str, torch.Tensor], *, bf16: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, logits of what is learned, and all gradients as one vector."""
    with torch.autocast("cuda", torch.bfloat16) if bf16 else nullcontext():
        output = made(**batch)
    output.loss.backward()
    learned = [parameter.grad.float().flatten() for parameter in made.parameters() if parameter.requires_grad]
    return output.loss.detach(), output.logits.detach()[batch["labels"] != -100].float(), torch.cat(learned)


def test_all_architectures_are_compared() -> None:
    assert {kind.model_type for kind in CONFIGS} == DECODERS


@pytest.mark.parametrize("shape", ["full", "padded", "packed"])
@pytest.mark.parametrize("adapter", ["Full", "LoRA", "DoRA"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_float32_is_the_same(kind: Any, adapter: str, shape: str) -> None:
    plain = step(model(kind, adapter, torch.float32, fused=False), inputs(shape), bf16=False)
    fused = step(model(kind, adapter, torch.float32, fused=True), inputs(shape), bf16=False)
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("adapter", ["Full", "LoRA", "DoRA"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_bfloat16_is_no_further_from_float32_than_plain(kind: Any, adapter: str) -> None:
    """Frozen weights in bfloat16, what learns in float32, as the train stage has them."""

    def as_trained(fused: bool) -> Any:
        made = model(kind, adapter, torch.float32 if adapter == "Full" else torch.bfloat16, fused=fused)
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return step(made, inputs("padded"), bf16=True)

    exact_model = model(kind, adapter, torch.bfloat16 if adapter != "Full" else torch.float32, fused=False).float()
    exact = step(exact_model, inputs("padded"), bf16=False)
    plain, fused = as_trained(False), as_trained(True)
    for right, one, other in zip(exact, plain, fused, strict=True):
        assert (other - right).norm() <= 1.25 * (one - right).norm() + 1e-3 * right.norm()


def test_recomputed_layers_give_the_same_gradients() -> None:
    batch = inputs("padded")
    kept = step(model(LlamaConfig, "LoRA", torch.float32, fused=True), batch, bf16=False)
    made = model(LlamaConfig, "LoRA", torch.float32, fused=True)
    made.gradient_checkpointing_enable({"use_reentrant": False})
    made.enable_input_require_grads()
    made.train()
    again = step(made, batch, bf16=False)
    torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-6)


def test_answers_are_written_with_a_cache() -> None:
    plain = model(LlamaConfig, "LoRA", torch.float32, fused=False)
    prompt = {"input_ids": inputs("full")["input_ids"][:, :16], "max_new_tokens": 24, "do_sample": False}
    wanted = plain.generate(**prompt, pad_token_id=0)
    assert torch.equal(model(LlamaConfig, "LoRA", torch.float32, fused=True).generate(**prompt, pad_token_id=0), wanted)


def test_a_job_takes_the_same_course(bucket: str, secret: Path, tmp_path: Path) -> None:
    courses = []
    for fused in (False, True):
        settings = training(fused_kernels=fused)
        config = prepare_job(
            bucket, secret.parent, ROWS, name=f"fused-{fused}".lower(), settings=settings, adapter=LORA
        )
        train_here(config, secret.parent, tmp_path / str(fused))
        courses.append([line["loss"] for line in metrics(config, secret)])
    assert courses[1] == pytest.approx(courses[0], rel=0.02)
    assert courses[1] != courses[0], "the kernels were not used"
