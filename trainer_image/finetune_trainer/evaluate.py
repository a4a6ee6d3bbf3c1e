"""Score a model on held-out rows: likelihood of the answers, answers of its own, most probable label.

The base is scored before training and the tuned model after it, by the same code in the same arithmetic. Random numbers
are drawn for sampled answers only, from a generator of their own, so that training takes the same course with and without it.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

from finetune_api.matrix import ANSWERED
from finetune_api.reasons import Failure, Reason
from finetune_stage.chats import answer_of
from finetune_stage.rows import Row
from finetune_stage.scores import PERCENTILES, RowScore
from finetune_trainer.answering import latencies, written
from finetune_trainer.batching import BATCH_TOKENS, batches, padded
from finetune_trainer.encode import IGNORED, Example
from finetune_trainer.exam import Exam as Exam
from finetune_trainer.machine import Numerics
from finetune_trainer.samples import shareable
from finetune_trainer.text_metrics import judged

LOGIT_BYTES = {"cpu": 64 * 2**20, "cuda": 2 * 2**30}
"""At most so much memory for the float32 logits of a batch; computing the loss takes about three times that."""
CANDIDATES = 1_024
"""Rows with a label as their answer that are tokenised at a time: rows times labels may be millions."""


def score(model: Any, exam: Exam, numerics: Numerics) -> list[RowScore]:
    """Every row's outcome."""
    rows = len(exam.rows)
    with at_rest(model), numerics.autocast():
        losses = _row_likelihoods(model, exam)
        answers = written(model, exam) if exam.metrics & ANSWERED else []
        labels = _labels(model, exam) if exam.metrics & {"Accuracy", "MacroF1"} else [(None, None)] * rows
        seconds = latencies(model, exam) if exam.metrics & PERCENTILES.keys() else [None] * rows
    # Outside of autocast, as in training: a reward model scores in float32.
    rewards = exam.judge(answers) if "Reward" in exam.metrics and exam.judge else []
    texts = [judged(answer, exam.metrics, exam.keeps_format) for answer in answers]
    shown = [shareable(answer.text) for answer in answers[: exam.samples]]
    return [
        RowScore(
            id=row.id,
            nll=nll,
            tokens=tokens,
            label=label,
            predicted=predicted,
            label_correct=None if label is None else label == predicted,
            reward=reward,
            seconds=taken,
            answer=answer,
            **text,
        )
        for row, (nll, tokens), (label, predicted), reward, taken, text, answer in zip(
            exam.rows,
            losses,
            labels,
            filled(rewards, None, rows),
            seconds,
            filled(texts, {}, rows),
            filled(shown, None, rows),
            strict=True,
        )
    ]


def filled(values: Sequence[Any], nothing: Any, rows: int) -> list[Any]:
    """As many as rows: those at the end were not answered."""
    return [*values, *[nothing] * (rows - len(values))]


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
    leaves_out = leaves_logits_out(model)
    budget = min(BATCH_TOKENS[device], logit_bytes(model.device) // (4 * model.config.get_text_config().vocab_size))
    for places in batches([len(example.input_ids) for example in examples], budget):
        ids, mask = padded([examples[place].input_ids for place in places], 0, model.device, left=False)
        labels, _ = padded([examples[place].labels for place in places], IGNORED, model.device, left=False)
        first = max(1, int((labels != IGNORED).any(0).int().argmax()))  # prompts need no logits
        target = labels[:, first:]
        keep = target.shape[1] + 1
        kept = {"logits_to_keep": keep} if leaves_out else {}
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **kept).logits
        logits = logits[:, -keep:-1]  # virtual tokens have logits too
        losses = _losses(logits, target, budget)
        sums, counts = losses.sum(1).tolist(), (target != IGNORED).sum(1).tolist()
        found |= dict(zip(places, zip(sums, counts, strict=True), strict=True))
    return [found[place] for place in range(len(examples))]


def leaves_logits_out(model: Any) -> bool:
    """Whether the architecture can compute the logits of the last tokens alone, as nearly all can."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters


def logit_bytes(device: torch.device) -> int:
    """Of a GPU's memory at most a quarter of what the models have left of it."""
    if device.type != "cuda":
        return LOGIT_BYTES[device.type]
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(LOGIT_BYTES[device.type], (torch.cuda.mem_get_info(device)[0] + cached) // 4)


def _losses(logits: torch.Tensor, target: torch.Tensor, budget: int) -> torch.Tensor:
    """Of each token, in float32; at most so many of them at a time, as a row by itself may be longer than a batch."""
    width = max(1, budget // len(logits))
    parts = [
        torch.nn.functional.cross_entropy(
            some.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(wanted.shape)
        for some, wanted in zip(torch.split(logits, width, 1), torch.split(target, width, 1), strict=True)
    ]
    return torch.cat(parts, dim=1)


def _labels(model: Any, exam: Exam) -> list[tuple[str, str]]:
    """The reference, and the most probable label, its end token included."""
    rows = max(1, CANDIDATES // len(exam.labels))
    return [
        found
        for first in range(0, len(exam.rows), rows)
        for found in _labels_of(model, exam, exam.rows[first : first + rows])
    ]


def _labels_of(model: Any, exam: Exam, rows: Sequence[Row]) -> list[tuple[str, str]]:
    nlls = iter([nll for nll, _ in likelihoods(model, [each for row in rows for each in _candidates(row, exam)])])
    found = []
    for row in rows:
        of_row = [next(nlls) for _ in exam.labels]
        found.append((answer_of(row.fields).strip(), exam.labels[of_row.index(min(of_row))]))
    return found


def _candidates(row: Row, exam: Exam) -> list[Example]:
    """The row with each of the labels as its answer."""
    answers = [exam.encoder.answer(exam.encoder.with_answer(row.fields, label)) for label in exam.labels]
    # From the first token in which they can differ, the same for all, so that the sums are comparable.
    start = min(next(i for i, label in enumerate(answer.labels) if label != IGNORED) for answer in answers)
    return [_cut(Example(a.input_ids, [IGNORED] * start + a.input_ids[start:]), exam.max_length) for a in answers]


def _cut(example: Example, size: int) -> Example:
    return Example(example.input_ids[-size:], example.labels[-size:])
