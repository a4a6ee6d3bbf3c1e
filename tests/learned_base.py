"""A tiny base model that half knows the task of the colours, for methods that learn from rewards on its own answers."""

from pathlib import Path
from typing import Any

from prepared_jobs import colour_rows
from tiny_models import write_tiny_llama

STEPS = 8
"""Enough that some sampled answers are right, and few enough that most are wrong."""


def write_half_trained_llama(folder: Path) -> Path:
    """Trained for a few steps to name the colour in a chat, and to end its turn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_tiny_llama(folder, hidden_size=64)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-3)
    prompts, answers = zip(*(_tokens(tokenizer, row) for row in colour_rows(30)), strict=True)
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)) + 1
    ids, labels = torch.full((30, width), stop), torch.full((30, width), -100)
    for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        row = [*prompt, *answer, stop]
        ids[place, : len(row)] = torch.tensor(row)
        labels[place, len(prompt) : len(row)] = ids[place, len(prompt) : len(row)]
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def _tokens(tokenizer: Any, row: dict[str, str]) -> tuple[list[int], list[int]]:
    """Prompt and answer."""
    asked = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    return prompt, tokenizer(row["completion"].strip())["input_ids"]
