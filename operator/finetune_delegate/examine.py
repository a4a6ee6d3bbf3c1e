"""Base against tuned model at the provider, on the same held-out rows, by what they answer; and the gate's verdict."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256

from finetune_api.artifacts import ResolvedDelegation
from finetune_api.v1alpha1.finetunejob_status import EvaluationStatus
from finetune_delegate.provider import Provider
from finetune_stage.chats import answer_of, calls_tools, chat_of
from finetune_stage.gate import Exams, decide, gains
from finetune_stage.rows import Row, Splits, held_out
from finetune_stage.scores import EvaluationFile, RowScore, confusion, figures, label_figures, majority_baseline, share
from finetune_storage import Store

ANSWERS = "answers"
"""Folder of the job's output with the answers so far; gone when the manifest is written."""
STORED_TOGETHER = 64
"""Answers; so many at most are asked for, and paid, again by the next attempt."""
AT_A_TIME = 8
"""Requests; a provider that wants fewer says 429, which is waited out."""


def examine(
    provider: Provider, store: Store, resolved: ResolvedDelegation, splits: Splits, tuned: str, base: str
) -> EvaluationFile | None:
    """Ask both models; None without held-out rows that are answered by a text. ``tuned`` and ``base`` are the provider's names."""
    spec = resolved.evaluation
    split, rows = _asked(splits)
    if not rows:
        return None
    metrics = sorted(frozenset(spec.metrics or ()) | {rule.metric for rule in spec.gate or ()})
    tokens = spec.max_new_tokens or 256
    print(f"asking both models for {len(rows)} answers", flush=True)
    ask = partial(answers, provider, store=store, rows=rows, max_tokens=tokens)
    before = score(ask(base), rows, spec.labels) if spec.compare_with_base else None
    after = score(ask(tuned), rows, spec.labels)
    majority = majority_baseline(
        [answer_of(row.fields).strip() for row in splits["train"]], [answer_of(row.fields).strip() for row in rows]
    )
    summary = EvaluationStatus(
        split=split,
        rows=len(rows),
        base=figures(before, metrics) if before is not None else None,
        tuned=figures(after, metrics),
        majority_class=share(majority),
        gate=decide(spec.gate, Exams(after, before, majority), resolved.seed) if spec.gate else None,
    )
    return EvaluationFile(
        summary=summary,
        seed=resolved.seed,
        base=before,
        tuned=after,
        majority=majority,
        confusion=confusion(after),
        labels=label_figures(after),
        gains=gains(metrics, after, before, resolved.seed),
    )


def _asked(splits: Splits) -> tuple[str, list[Row]]:
    """Name and rows of the held-out split whose answers can be compared: models are asked for texts, without tools."""
    split, rows = held_out(splits)
    asked = [row for row in rows if not calls_tools(row.fields)]
    if len(asked) < len(rows):
        print(
            f"{len(rows) - len(asked)} of {len(rows)} {split} rows are not asked: their answers call tools", flush=True
        )
    return split, asked


def answers(provider: Provider, model: str, *, store: Store, rows: list[Row], max_tokens: int) -> list[str]:
    """What a model says to each row: as an earlier attempt was told, or asked now and stored."""
    folder = f"{ANSWERS}/{sha256(model.encode()).hexdigest()[:16]}"
    said: list[str] = []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for first in range(0, len(rows), STORED_TOGETHER):
            key = f"{folder}/{first:08}.json"
            if store.exists(key):
                said += json.loads(store.get(key))
                continue
            asked = rows[first : first + STORED_TOGETHER]
            told = list(pool.map(lambda row: provider.answer(model, chat_of(row), max_tokens), asked))
            store.put(key, json.dumps(told, ensure_ascii=False).encode())
            said += told
    return said


def forget(store: Store) -> None:
    """The answers have served: what they were worth is in evaluation.json."""
    store.delete(store.list(f"{ANSWERS}/"))


def score(said: list[str], rows: list[Row], labels: list[str] | None) -> list[RowScore]:
    """Every row's outcome. Accuracy and MacroF1 are by the generated text, too: no provider has to return the labels' likelihoods."""
    pairs = [(answer.strip(), answer_of(row.fields).strip()) for answer, row in zip(said, rows, strict=True)]
    # No likelihoods: zero tokens say that none were measured.
    return [
        RowScore(
            id=row.id,
            nll=0.0,
            tokens=0,
            exact=said == right,
            label_correct=said == right,
            label=right if labels else None,
            predicted=(said if said in labels else "") if labels else None,
        )
        for row, (said, right) in zip(rows, pairs, strict=True)
    ]
