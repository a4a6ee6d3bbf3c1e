"""The answers a model writes to held-out prompts, and how long it takes for one."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from transformers import GenerationConfig

from finetune_trainer.adapter import virtual_tokens
from finetune_trainer.base_model import positions_of
from finetune_trainer.batching import BATCH_TOKENS, batches, padded
from finetune_trainer.exam import Exam
from finetune_trainer.rewards import Answer, answer_text

UNCHANGED = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "num_beams": 1,
}
"""The model's own probabilities: transformers takes what is left out here from the base's generation_config.json."""
TIMED_ROWS = 32
"""Latencies are of so many answers, the first ones."""


def written(model: Any, exam: Exam) -> list[Answer]:
    """The answers to the prompts of the first rows, as many as shall be answered; both models draw the same random numbers."""
    prompts = _prompts(model, exam)
    answers: dict[int, list[int]] = {}
    lengths = [len(prompt) + exam.max_new_tokens for prompt in prompts]
    # Padding between virtual tokens and prompt would move the prompt away from them.
    budget = 1 if virtual_tokens(model) else BATCH_TOKENS[model.device.type]
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(exam.seed)
        for places in batches(lengths, budget):
            generated = _generate(model, exam, [prompts[place] for place in places])
            answers |= dict(zip(places, generated, strict=True))
    stops = exam.generation.stop_strings or ()
    return [
        Answer(
            text=before(stops, answer_text(exam.encoder.tokenizer, answers[place], exam.stop_tokens)),
            reference=exam.encoder.reference(row.fields),
            prompt_ids=prompts[place],
            ids=answers[place],
        )
        for place, row in enumerate(exam.rows[: len(prompts)])
    ]


def latencies(model: Any, exam: Exam) -> list[float | None]:
    """Seconds from prompt to the end of its answer, each answer alone; of the first rows."""
    prompts = _prompts(model, exam)[:TIMED_ROWS]
    _generate(model, exam, prompts[:1])  # the first one pays for what is compiled and cached
    seconds: list[float | None] = []
    for prompt in prompts:
        began = time.perf_counter()
        _generate(model, exam, [prompt])
        seconds.append(time.perf_counter() - began)
    return [*seconds, *([None] * (len(exam.rows) - len(seconds)))]


def _prompts(model: Any, exam: Exam) -> list[list[int]]:
    """Whole, but for those that leave no room for an answer: their ends."""
    room = _room(model, exam)
    return [prompt if room is None else prompt[-room:] for prompt in _whole_prompts(exam)]


def cut_prompts(model: Any, exam: Exam) -> int:
    """How many prompts leave no room for an answer, so that the model does not read their beginnings; said, where there are any."""
    prompts, room = _whole_prompts(exam), _room(model, exam)
    cut = 0 if room is None else sum(len(prompt) > room for prompt in prompts)
    if cut:
        print(
            f"{cut} of {len(prompts)} prompts of {exam.split} are read from their last {room} tokens on: "
            f"the base has {positions(model)} positions, and an answer takes up to {exam.max_new_tokens}",
            flush=True,
        )
    return cut


def _whole_prompts(exam: Exam) -> list[list[int]]:
    return [exam.encoder.prompt(row.fields) for row in exam.rows[: exam.generation.max_rows]]


def _room(model: Any, exam: Exam) -> int | None:
    """Tokens of a prompt that is to be answered, the same for all models that are compared; None where the base has no limit."""
    most = positions(model)
    learned = max(exam.virtual_tokens, virtual_tokens(model))
    return None if most is None else max(1, most - learned - exam.max_new_tokens)


def positions(model: Any) -> int | None:
    """Longest sequence the base reads; None where its architecture has no limit."""
    return positions_of(model.config.get_text_config())


def _generate(model: Any, exam: Exam, prompts: list[list[int]]) -> list[list[int]]:
    """Tokens of the answers, each up to and with its end token."""
    pad = exam.stop_tokens[0]  # masked out before the prompt, cut off after the answer
    ids, mask = padded(prompts, pad, model.device, left=True)
    asked = exam.generation
    sampled = {"do_sample": True, "temperature": asked.temperature, "top_p": asked.top_p or 1.0}
    config = GenerationConfig(
        **UNCHANGED,
        max_new_tokens=exam.max_new_tokens,
        eos_token_id=exam.stop_tokens,
        pad_token_id=pad,
        stop_strings=asked.stop_strings,
        **(sampled if asked.temperature else {"do_sample": False}),
    )
    reading = {"tokenizer": exam.encoder.tokenizer} if asked.stop_strings else {}
    output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **reading)
    output = output[:, ids.shape[1] :].tolist()
    return [until_stop(answer, set(exam.stop_tokens)) for answer in output]


def until_stop(ids: list[int], stops: set[int]) -> list[int]:
    """Up to and with the first token that ends an answer."""
    end = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def before(stops: Iterable[str], text: str) -> str:
    """The text up to the first of the strings in it."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]
