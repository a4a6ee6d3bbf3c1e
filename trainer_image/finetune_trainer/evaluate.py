"""Score a model on held-out rows: likelihood of the answers, greedy answers, most probable label.

The base is scored before training and the tuned model after it, by the same code in the same arithmetic. Nothing here
draws random numbers, so that training takes the same course with and without it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import Metric
from finetune_stage.rows import Row
from finetune_stage.scores import RowScore
from finetune_trainer.adapter import virtual_tokens
from finetune_trainer.encode import IGNORED, Encoder, Example
from finetune_trainer.machine import Numerics
from finetune_trainer.rewards import Answer, Judge, answer_text

LOGIT_BYTES = {"cpu": 64 * 2**20, "cuda": 2 * 2**30}
"""Memory for the float32 logits of a batch; computing the loss takes about three times that."""
BATCH_TOKENS = {"cpu": 4_096, "cuda": 16_384}


@dataclass(frozen=True)
class Exam:
    """What is asked of both models."""

    encoder: Encoder
    split: str
    rows: list[Row]
    metrics: frozenset[Metric]
    labels: tuple[str, ...]
    max_length: int
    max_new_tokens: int
    """For ExactMatch and Reward."""
    stop_tokens: list[int]
    judge: Judge | None = None
    """For Reward."""


def score(model: Any, exam: Exam, numerics: Numerics) -> list[RowScore]:
    """Every row's outcome."""
    with at_rest(model), numerics.autocast():
        losses = _row_likelihoods(model, exam)
        answers = _greedy_answers(model, exam) if exam.metrics & {"ExactMatch", "Reward"} else []
        exact = map(_is_exact, answers) if "ExactMatch" in exam.metrics else [None] * len(exam.rows)
        rewards = exam.judge(answers) if "Reward" in exam.metrics and exam.judge else [None] * len(exam.rows)
        labels = _labels(model, exam) if exam.metrics & {"Accuracy", "MacroF1"} else [(None, None)] * len(exam.rows)
    return [
        RowScore(
            id=row.id,
            nll=nll,
            tokens=tokens,
            exact=matched,
            label=label,
            predicted=predicted,
            label_correct=None if label is None else label == predicted,
            reward=reward,
        )
        for row, (nll, tokens), matched, (label, predicted), reward in zip(
            exam.rows, losses, exact, labels, rewards, strict=True
        )
    ]


@contextmanager
def at_rest(model: Any) -> Iterator[None]:
    """Without dropout, without gradients, and as before afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _row_likelihoods(model: Any, exam: Exam) -> list[tuple[float, int]]:
    """Summed negative log-likelihood and token count of every row; a text longer than a sequence is cut into several."""
    pieces = [_pieces(exam.encoder.answer(row.fields), exam) for row in exam.rows]
    scored = iter(likelihoods(model, [piece for of_row in pieces for piece in of_row]))
    rows = []
    for row, of_row in zip(exam.rows, pieces, strict=True):
        found = [next(scored) for _ in of_row]
        nll, tokens = sum(nll for nll, _ in found), sum(tokens for _, tokens in found)
        rows.append((finite(nll, row.id), tokens))
    return rows


def finite(loss: float, row: str) -> float:
    """The loss on a held-out row. Raises Failure where it is no number."""
    if not math.isfinite(loss):
        raise Failure(Reason.NON_FINITE_LOSS, f"the model's loss on the held-out row {row} is {loss}")
    return loss


def _pieces(example: Example, exam: Exam) -> list[Example]:
    """Text: all of it, in sequences of the training's length. Answers: the last tokens, so that the answer stays whole."""
    size = exam.max_length
    if exam.encoder.format == "Text":
        starts = range(0, len(example.input_ids), size)
        return [Example(example.input_ids[i : i + size], example.labels[i : i + size]) for i in starts]
    return [_cut(example, size)]


def likelihoods(model: Any, examples: list[Example]) -> list[tuple[float, int]]:
    """Of each example the negative log-likelihood of its labels, and their number."""
    found: dict[int, tuple[float, int]] = {}
    device = model.device.type
    budget = min(BATCH_TOKENS[device], LOGIT_BYTES[device] // (4 * model.config.get_text_config().vocab_size))
    for places in batches([len(example.input_ids) for example in examples], budget):
        ids, mask = padded([examples[place].input_ids for place in places], 0, model.device, left=False)
        labels, _ = padded([examples[place].labels for place in places], IGNORED, model.device, left=False)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[:, -ids.shape[1] : -1]  # virtual tokens have logits too
        target = labels[:, 1:]
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(target.shape)
        sums, counts = losses.sum(1).tolist(), (target != IGNORED).sum(1).tolist()
        found |= dict(zip(places, zip(sums, counts, strict=True), strict=True))
    return [found[place] for place in range(len(examples))]


def _is_exact(answer: Answer) -> bool:
    """Whether it is the reference, white space around it apart."""
    return answer.text.strip() == answer.reference.strip()


def _greedy_answers(model: Any, exam: Exam) -> list[Answer]:
    """The answer to every row's prompt; nothing is sampled."""
    room = max(1, exam.max_length - exam.max_new_tokens)
    prompts = [exam.encoder.prompt(row.fields)[-room:] for row in exam.rows]
    answers: dict[int, list[int]] = {}
    lengths = [len(prompt) + exam.max_new_tokens for prompt in prompts]
    # Padding between virtual tokens and prompt would move the prompt away from them.
    budget = 1 if virtual_tokens(model) else BATCH_TOKENS[model.device.type]
    for places in batches(lengths, budget):
        generated = _generate(model, exam, [prompts[place] for place in places])
        answers |= dict(zip(places, generated, strict=True))
    return [
        Answer(
            text=answer_text(exam.encoder.tokenizer, answers[place], exam.stop_tokens),
            reference=exam.encoder.reference(row.fields),
            prompt_ids=prompts[place],
            ids=answers[place],
        )
        for place, row in enumerate(exam.rows)
    ]


def _generate(model: Any, exam: Exam, prompts: list[list[int]]) -> list[list[int]]:
    """Tokens of the answers, each up to and with its end token."""
    pad = exam.stop_tokens[0]  # masked out before the prompt, cut off after the answer
    ids, mask = padded(prompts, pad, model.device, left=True)
    config = GenerationConfig(
        max_new_tokens=exam.max_new_tokens, do_sample=False, eos_token_id=exam.stop_tokens, pad_token_id=pad
    )
    output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :].tolist()
    return [until_stop(answer, set(exam.stop_tokens)) for answer in output]


def _labels(model: Any, exam: Exam) -> list[tuple[str, str]]:
    """The reference, and the most probable label, its end token included."""
    candidates = []
    for row in exam.rows:
        answers = [exam.encoder.answer(exam.encoder.with_answer(row.fields, label)) for label in exam.labels]
        # From the first token in which they can differ, the same for all, so that the sums are comparable.
        start = min(next(i for i, label in enumerate(answer.labels) if label != IGNORED) for answer in answers)
        candidates += [
            _cut(Example(a.input_ids, [IGNORED] * start + a.input_ids[start:]), exam.max_length) for a in answers
        ]
    nlls = iter([nll for nll, _ in likelihoods(model, candidates)])
    found = []
    for row in exam.rows:
        of_row = [next(nlls) for _ in exam.labels]
        found.append((exam.encoder.reference(row.fields).strip(), exam.labels[of_row.index(min(of_row))]))
    return found


def _cut(example: Example, size: int) -> Example:
    return Example(example.input_ids[-size:], example.labels[-size:])


def batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Places of rows of like length, each batch of at most ``budget`` padded tokens (or one row)."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batch and lengths[place] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def padded(rows: list[list[int]], value: int, device: Any, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows as one tensor, and the mask of what is not padding (by length: a pad id may be a real token)."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for place, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids[place, span] = torch.tensor(row)
        mask[place, span] = 1
    return ids.to(device), mask.to(device)


def until_stop(ids: list[int], stops: set[int]) -> list[int]:
    """Up to and with the first token that ends an answer."""
    end = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]
