"""Peak memory of training steps on a GPU, phase by phase, beside what :mod:`finetune_trainer.memory` predicts.

    PYTHONPATH=operator:trainer_image:. python -m benchmarks.memory --out memory.jsonl [--only "8B QLoRA"] [--seconds 540]

Real architectures with random weights, full-length random rows, trained for three steps by the code of the train stage
(adapter, trainer, settings); the adapter's base is frozen, QLoRA's in NF4. Needs torch with CUDA, transformers, trl, peft, bitsandbytes.
"""

import argparse
import gc
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the recipe does

from finetune_api.v1alpha1.adapter import AdapterType
from finetune_trainer.memory import Load, Memory, Shape, predict

SHAPES: dict[str, tuple[str, Shape]] = {
    # hidden, intermediate, layers, heads, key/value heads, head size, vocabulary, tied
    "Qwen2.5-0.5B": ("Qwen2", Shape(896, 4864, 24, 14, 2, 64, 151936, True, qkv_bias=True)),
    "Llama-3.2-1B": ("Llama", Shape(2048, 8192, 16, 32, 8, 64, 128256, True)),
    "Qwen2.5-1.5B": ("Qwen2", Shape(1536, 8960, 28, 12, 2, 128, 151936, True, qkv_bias=True)),
    "Qwen3-4B": ("Qwen3", Shape(2560, 9728, 36, 32, 8, 128, 151936, True, qk_norm=True)),
    "Llama-3.1-8B": ("Llama", Shape(4096, 14336, 32, 32, 8, 128, 128256, False)),
    "Qwen2.5-32B": ("Qwen2", Shape(5120, 27648, 64, 40, 8, 128, 152064, False, qkv_bias=True)),
    "Llama-3.1-70B": ("Llama", Shape(8192, 28672, 80, 64, 8, 128, 128256, False)),
}


STEPS = 3


@dataclass(frozen=True)
class Case:
    """One configuration."""

    shape: str
    adapter: AdapterType
    length: int
    rows: int
    recompute: bool
    rank: int = 16
    dropout: float = 0.0
    accumulation: int = 1

    def predicted(self) -> Memory | None:
        """What the plan would say."""
        load = Load(self.adapter, self.length, self.rows, self.recompute, self.accumulation, self.rank, self.dropout)
        return predict(SHAPES[self.shape][1], load)


CASES = [
    Case("Qwen2.5-0.5B", "Full", 1024, 8, False),
    Case("Qwen2.5-0.5B", "Full", 4096, 2, True),
    Case("Qwen2.5-0.5B", "LoRA", 4096, 2, False),
    Case("Qwen2.5-0.5B", "LoRA", 4096, 8, True),
    Case("Llama-3.2-1B", "Full", 2048, 4, False, accumulation=2),
    Case("Llama-3.2-1B", "Full", 4096, 4, True),
    Case("Llama-3.2-1B", "Full", 16384, 1, True, accumulation=2),
    Case("Llama-3.2-1B", "LoRA", 4096, 4, False),
    Case("Llama-3.2-1B", "LoRA", 2048, 8, False, rank=64, dropout=0.05),
    Case("Llama-3.2-1B", "LoRA", 16384, 1, False),
    Case("Llama-3.2-1B", "QLoRA", 4096, 4, False, dropout=0.05),
    Case("Llama-3.2-1B", "DoRA", 2048, 4, False),
    Case("Llama-3.2-1B", "DoRA", 4096, 4, True, dropout=0.05),
    Case("Llama-3.2-1B", "QDoRA", 2048, 4, False),
    Case("Qwen2.5-1.5B", "Full", 1024, 8, False),
    Case("Qwen2.5-1.5B", "LoRA", 8192, 2, False, rank=32),
    Case("Qwen3-4B", "Full", 4096, 1, True),
    Case("Qwen3-4B", "LoRA", 4096, 2, False),
    Case("Qwen3-4B", "LoRA", 16384, 1, True),
    Case("Qwen3-4B", "QLoRA", 8192, 1, False, dropout=0.05),
    Case("Llama-3.1-8B", "LoRA", 4096, 2, False),
    Case("Llama-3.1-8B", "LoRA", 4096, 4, False),
    Case("Llama-3.1-8B", "LoRA", 4096, 3, False, dropout=0.05),
    Case("Llama-3.1-8B", "LoRA", 4096, 4, True),
    Case("Llama-3.1-8B", "LoRA", 16384, 1, True, dropout=0.05),
    Case("Llama-3.1-8B", "QLoRA", 4096, 2, False),
    Case("Llama-3.1-8B", "QLoRA", 4096, 4, False),
    Case("Llama-3.1-8B", "QLoRA", 4096, 4, True),
    Case("Llama-3.1-8B", "QLoRA", 1024, 4, False, rank=64, dropout=0.05),
    Case("Llama-3.1-8B", "DoRA", 2048, 2, False),
    Case("Llama-3.1-8B", "DoRA", 4096, 2, True),
    Case("Llama-3.1-8B", "QDoRA", 4096, 2, True),
    Case("Qwen2.5-32B", "LoRA", 2048, 1, False),
    Case("Qwen2.5-32B", "LoRA", 4096, 1, True),
    Case("Qwen2.5-32B", "QLoRA", 2048, 1, False),
    Case("Qwen2.5-32B", "QLoRA", 8192, 1, True, dropout=0.05),
    Case("Llama-3.1-70B", "QLoRA", 1024, 1, False),
    Case("Llama-3.1-70B", "QLoRA", 4096, 1, True),
]


def config_of(shape: str) -> Any:
    """The architecture, without weights."""
    import transformers

    kind, sizes = SHAPES[shape]
    return getattr(transformers, f"{kind}Config")(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_value_heads,
        head_dim=sizes.head_size,
        vocab_size=sizes.vocabulary,
        tie_word_embeddings=sizes.tied,
        max_position_embeddings=32768,
    )


def base_model(case: Case) -> Any:
    """Random weights on the GPU, as the train stage would have loaded them."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if case.adapter == "Full" else torch.bfloat16
    if not case.adapter.startswith("Q"):
        with torch.device("cuda"):
            return AutoModelForCausalLM.from_config(config_of(case.shape), dtype=dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(case.shape), dtype=dtype)
    quantise_in_place(model)
    return model


def quantise_in_place(model: Any) -> None:
    """A model on the meta device becomes random weights on the GPU, its layers' linears NF4 with double quantisation."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    linears = [(n, m) for n, m in model.named_modules() if type(m) is torch.nn.Linear and m is not head]
    for name, linear in linears:
        parent, _, leaf = name.rpartition(".")
        has_bias = linear.bias is not None
        small = Linear4bit(
            linear.in_features, linear.out_features, has_bias, torch.bfloat16, True, "nf4", device="meta"
        )
        weight = torch.empty(linear.out_features, linear.in_features, dtype=torch.bfloat16, device="cuda").normal_(
            0, 0.02
        )
        small.weight = Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4").cuda()
        if has_bias:
            small.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=torch.bfloat16, device="cuda"))
        setattr(model.get_submodule(parent), leaf, small)
        del weight
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta":
                real = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda").normal_(0, 0.02)
                setattr(module, name, torch.nn.Parameter(real))
    rotary = type(model.model.rotary_emb)
    model.model.rotary_emb = rotary(model.config, device="cuda")
    model.tie_weights()
    model.is_loaded_in_4bit = True


def with_adapter(model: Any, case: Case) -> Any:
    """As the train stage puts it on."""
    from peft import LoraConfig, get_peft_model

    if case.adapter == "Full":
        return model
    model.requires_grad_(False)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=case.rank,
        lora_alpha=2 * case.rank,
        lora_dropout=case.dropout,
        target_modules="all-linear",
        use_dora="DoRA" in case.adapter,
    )
    return get_peft_model(model, settings)


def dataset(case: Case, steps: int) -> Any:
    """Rows of random tokens, each as long as a row can be."""
    import torch
    from datasets import Dataset

    ids = torch.randint(100, 50_000, (steps * case.rows * case.accumulation, case.length)).tolist()
    return Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])


def tokenizer() -> Any:
    """TRL asks for one, and only for its padding."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def trainer(model: Any, case: Case) -> Any:
    """With the settings of the train stage that bear on memory."""
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        output_dir="/tmp/memory-run",
        max_steps=STEPS,
        per_device_train_batch_size=case.rows,
        gradient_accumulation_steps=case.accumulation,
        learning_rate=1e-5,
        gradient_checkpointing=case.recompute,
        bf16=True,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_length=case.length,
    )
    made = SFTTrainer(model=model, args=settings, train_dataset=dataset(case, STEPS), processing_class=tokenizer())
    for parameter in made.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return made


def measure(case: Case) -> dict[str, Any]:
    """Peaks of three steps, in bytes, and the last step's speed."""
    import torch
    from peft.helpers import disable_input_dtype_casting
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            times.append(time.monotonic())

    made = trainer(with_adapter(base_model(case), case), case)
    made.add_callback(Clock())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with disable_input_dtype_casting(made.model, active=case.adapter != "DoRA"):  # as finetune_trainer.train
        made.train()
    tokens = case.rows * case.accumulation * case.length
    return {
        **asdict(case),
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "tokensPerSecond": round(tokens / (times[-1] - times[-2])),
    }


def main() -> None:
    """Measure every case that fits into the time."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=540)
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory, torch.__version__, flush=True)
    with options.out.open("a") as out:
        for case in CASES:
            if options.only not in f"{case.shape} {case.adapter}" or time.monotonic() > until:
                continue
            line = measure(case)
            out.write(json.dumps(line) + "\n")
            out.flush()
            said = case.predicted()
            ratios = [f"{getattr(said, name) / line[name]:.3f}" for name in ("allocated", "reserved")] if said else []
            print(json.dumps(line), "predicted/measured", *ratios, flush=True)
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
