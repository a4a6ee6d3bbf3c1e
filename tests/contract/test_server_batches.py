"""Rows of a batch, which come and go and are padded, against each row alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_server.batch import Batch
from finetune_server.generation import Decoder, Generation, SamplingParams


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "gpt2"])
def test_padding_changes_no_answer_of_other_architectures(kind: str) -> None:
    """Sliding windows, alternating ones, learned positions."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    windows = {"sliding_window": 6, "initializer_range": 0.2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    gpt2 = {"vocab_size": 300, "n_embd": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.2}
    config = AutoConfig.for_model(kind, **(gpt2 if kind == "gpt2" else {**sizes, **heads, **windows}))
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [list(range(5, 5 + size)) for size in (1, 3, 9, 17, 7)]
    lengths = [12, 4, 8, 6, 9]
    assert batched(model, prompts, lengths) == [alone(model, *asked) for asked in zip(prompts, lengths, strict=True)]


def alone(model: Any, prompt: list[int], length: int) -> list[int]:
    """Without a cache and without padding."""
    ids = torch.tensor([prompt])
    for _ in range(length):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, len(prompt) :].tolist()


def batched(model: Any, prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
    """Together; the last one comes later, and each leaves when it is done."""
    decoder = Decoder(SimpleNamespace(decode=lambda tokens, **_: ""), frozenset())
    rows = [
        Generation(None, prompt, SamplingParams(length, temperature=0), decoder, lambda _: None)
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    batch, joining = Batch(rows[:-1]), Batch(rows[-1:])
    emissions = [*batch.step(model), *batch.step(model), *joining.step(model)]
    batch.join(joining)
    while batch.rows:
        emissions += batch.step(model)
    return [[token.id for made, piece in emissions if made is row for token in piece.tokens] for row in rows]
