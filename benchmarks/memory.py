"""Peak memory of training steps on a GPU, phase by phase, beside what :mod:`finetune_trainer.memory` predicts.

    PYTHONPATH=operator:trainer_image:. python -m benchmarks.memory --out memory.jsonl [--only "8B QLoRA"] [--first 38] [--plain]

Real architectures with random weights, full-length random rows, trained for three steps by the code of the train stage
(kernels, adapter, trainer, settings); the adapter's base is frozen, QLoRA's in NF4. Every case has a process of its own: bitsandbytes
holds on to the weights of a training that has ended. Needs torch with CUDA, transformers, trl, peft, bitsandbytes, liger-kernel.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the recipe does

from finetune_trainer.memory import Load, Shape, predict

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


Case = tuple[str, Load]
"""A model and how it is trained."""

CASES: list[Case] = [
    ("Qwen2.5-0.5B", Load("Full", 1024, 8, False)),
    ("Qwen2.5-0.5B", Load("Full", 4096, 2, True)),
    ("Qwen2.5-0.5B", Load("LoRA", 4096, 2, False)),
    ("Qwen2.5-0.5B", Load("LoRA", 4096, 8, True)),
    ("Llama-3.2-1B", Load("Full", 2048, 4, False, accumulation=2)),
    ("Llama-3.2-1B", Load("Full", 4096, 4, True)),
    ("Llama-3.2-1B", Load("Full", 16384, 1, True, accumulation=2)),
    ("Llama-3.2-1B", Load("LoRA", 4096, 4, False)),
    ("Llama-3.2-1B", Load("LoRA", 2048, 8, False, rank=64, dropout=0.05)),
    ("Llama-3.2-1B", Load("LoRA", 16384, 1, False)),
    ("Llama-3.2-1B", Load("QLoRA", 4096, 4, False, dropout=0.05)),
    ("Llama-3.2-1B", Load("DoRA", 2048, 4, False)),
    ("Llama-3.2-1B", Load("DoRA", 4096, 4, True, dropout=0.05)),
    ("Llama-3.2-1B", Load("QDoRA", 2048, 4, False)),
    ("Qwen2.5-1.5B", Load("Full", 1024, 8, False)),
    ("Qwen2.5-1.5B", Load("LoRA", 8192, 2, False, rank=32)),
    ("Qwen3-4B", Load("Full", 4096, 1, True)),
    ("Qwen3-4B", Load("LoRA", 4096, 2, False)),
    ("Qwen3-4B", Load("LoRA", 16384, 1, True)),
    ("Qwen3-4B", Load("QLoRA", 8192, 1, False, dropout=0.05)),
    ("Llama-3.1-8B", Load("LoRA", 4096, 2, False)),
    ("Llama-3.1-8B", Load("LoRA", 4096, 4, False)),
    ("Llama-3.1-8B", Load("LoRA", 4096, 3, False, dropout=0.05)),
    ("Llama-3.1-8B", Load("LoRA", 4096, 4, True)),
    ("Llama-3.1-8B", Load("LoRA", 16384, 1, True, dropout=0.05)),
    ("Llama-3.1-8B", Load("QLoRA", 4096, 2, False)),
    ("Llama-3.1-8B", Load("QLoRA", 4096, 4, False)),
    ("Llama-3.1-8B", Load("QLoRA", 4096, 4, True)),
    ("Llama-3.1-8B", Load("QLoRA", 1024, 4, False, rank=64, dropout=0.05)),
    ("Llama-3.1-8B", Load("DoRA", 2048, 2, False)),
    ("Llama-3.1-8B", Load("DoRA", 4096, 2, True)),
    ("Llama-3.1-8B", Load("QDoRA", 4096, 2, True)),
    ("Qwen2.5-32B", Load("LoRA", 2048, 1, False)),
    ("Qwen2.5-32B", Load("LoRA", 4096, 1, True)),
    ("Qwen2.5-32B", Load("QLoRA", 2048, 1, False)),
    ("Qwen2.5-32B", Load("QLoRA", 8192, 1, True, dropout=0.05)),
    ("Llama-3.1-70B", Load("QLoRA", 1024, 1, False)),
    ("Llama-3.1-70B", Load("QLoRA", 4096, 1, True)),
    ("Llama-3.2-1B", Load("Full", 2048, 4, False, optimizer="AdamW8bit")),
    ("Qwen2.5-1.5B", Load("Full", 4096, 2, True, optimizer="AdamW8bit")),
    ("Qwen3-4B", Load("Full", 2048, 2, True, optimizer="AdamW8bit")),
    ("Llama-3.1-8B", Load("LoRA", 4096, 1, True, optimizer="AdamW8bit")),
    ("Qwen3-4B", Load("Full", 4096, 1, True, accumulation=2, optimizer="AdamW8bit")),
    ("Llama-3.2-1B", Load("Full", 4096, 1, True, accumulation=2)),
    ("Llama-3.2-1B", Load("Full", 2048, 2, True, accumulation=4)),
    ("Qwen2.5-1.5B", Load("Full", 4096, 1, True, accumulation=2)),
    ("Qwen2.5-1.5B", Load("Full", 2048, 4, True, accumulation=2, optimizer="AdamW8bit")),
    ("Qwen2.5-0.5B", Load("Full", 2048, 4, True, accumulation=2)),
    ("Qwen2.5-0.5B", Load("Full", 1024, 2, False, accumulation=2)),
    ("Llama-3.1-8B", Load("LoRA", 4096, 1, True, accumulation=4, rank=64)),
    ("Llama-3.2-1B", Load("LoRA", 2048, 2, True, accumulation=2, rank=256)),
    ("Llama-3.1-8B", Load("QLoRA", 2048, 2, True, accumulation=2, rank=64, dropout=0.05)),
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


def base_model(shape: str, load: Load) -> Any:
    """Random weights on the GPU, as the train stage would have loaded them."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if load.adapter == "Full" else torch.bfloat16
    if not load.adapter.startswith("Q"):
        with torch.device("cuda"):
            return AutoModelForCausalLM.from_config(config_of(shape), dtype=dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=dtype)
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


def with_adapter(model: Any, load: Load) -> Any:
    """As the train stage puts it on."""
    from peft import LoraConfig, get_peft_model

    if load.adapter == "Full":
        return model
    model.requires_grad_(False)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=load.rank,
        lora_alpha=2 * load.rank,
        lora_dropout=load.dropout,
        target_modules="all-linear",
        use_dora="DoRA" in load.adapter,
    )
    return get_peft_model(model, settings)


def dataset(load: Load, steps: int) -> Any:
    """Rows of random tokens, each as long as a row can be."""
    import torch
    from datasets import Dataset

    ids = torch.randint(100, 50_000, (steps * load.rows * load.accumulation, load.length)).tolist()
    return Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])


def tokenizer() -> Any:
    """TRL asks for one, and only for its padding."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def trainer(model: Any, load: Load, steps: int) -> Any:
    """With the settings of the train stage that bear on memory."""
    from trl import SFTConfig, SFTTrainer

    from finetune_trainer.optimizer import OPTIMIZERS

    settings = SFTConfig(
        output_dir="/tmp/memory-run",
        max_steps=steps,
        per_device_train_batch_size=load.rows,
        gradient_accumulation_steps=load.accumulation,
        learning_rate=1e-5,
        optim=OPTIMIZERS[load.optimizer],
        gradient_checkpointing=load.recompute,
        bf16=True,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        max_length=load.length,
    )
    return SFTTrainer(model=model, args=settings, train_dataset=dataset(load, steps), processing_class=tokenizer())


def measure(shape: str, load: Load, steps: int = STEPS, *, as_trl: bool = False) -> dict[str, Any]:
    """Peaks in bytes, and the median speed of the steps after the first two.

    ``as_trl``: the adapter and its inputs in the types that TRL and PEFT give them, not in the train stage's.
    """
    import torch
    from peft.helpers import disable_input_dtype_casting
    from transformers import TrainerCallback

    from finetune_trainer.kernels import fuse

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            times.append(time.monotonic())

    base = base_model(shape, load)
    if load.fused:
        fuse(base)
    made = trainer(with_adapter(base, load), load, steps)
    made.add_callback(Clock())
    for parameter in made.model.parameters():
        if parameter.requires_grad and not as_trl:
            parameter.data = parameter.data.float()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    is_cast = as_trl or load.adapter == "DoRA"
    with disable_input_dtype_casting(made.model, active=not is_cast):  # as finetune_trainer.train
        made.train()
    took = statistics.median(after - before for before, after in pairwise(times[1:]))
    return {
        "shape": shape,
        **asdict(load),
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "tokensPerSecond": round(load.rows * load.accumulation * load.length / took),
    }


def apart(shape: str, load: Load, steps: int = STEPS, *, as_trl: bool = False) -> dict[str, Any]:
    """:func:`measure` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (shape, load, steps), {"as_trl": as_trl})


def main() -> None:
    """Measure the cases."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose model, adapter and optimizer contain this")
    parser.add_argument("--first", type=int, default=0, help="the case to begin with")
    parser.add_argument("--plain", action="store_true", help="without fused kernels")
    options = parser.parse_args()
    with options.out.open("a") as out:
        for shape, stated in CASES[options.first :]:
            load = replace(stated, fused=not options.plain)
            if options.only not in f"{shape} {load.adapter} {load.optimizer}":
                continue
            line = apart(shape, load)
            out.write(json.dumps(line) + "\n")
            out.flush()
            said = predict(SHAPES[shape][1], load)
            ratios = [f"{getattr(said, name) / line[name]:.3f}" for name in ("allocated", "reserved")] if said else []
            print(json.dumps(line), "predicted/measured", *ratios, flush=True)


if __name__ == "__main__":
    main()
