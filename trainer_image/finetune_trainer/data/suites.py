"""Evaluation suites as the train stage reads them: every row checked, in one of three shapes, and what it takes to answer them."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from finetune_api.artifacts import DATA, PreparedFormat, PreparedSuite
from finetune_api.matrix import ANSWERED
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import Columns, Source
from finetune_api.v1alpha1.evaluation import EvaluationSpec, EvaluationSuite, Metric
from finetune_stage.outcome import Places
from finetune_storage import sha256_of
from finetune_trainer.chat_template import Refused
from finetune_trainer.data.contamination import Guarded
from finetune_trainer.data.fields import Row
from finetune_trainer.data.findings import Broken, Findings
from finetune_trainer.data.formats import RowFormat, canonical, prepared_format
from finetune_trainer.data.sources import SourceFile, fetch_source
from finetune_trainer.data.telling import first_format, rows_of
from finetune_trainer.data.words import own_text
from finetune_trainer.encode import IGNORED, encoder

SHAPES = get_args(PreparedSuite.model_fields["format"].annotation)
LONGEST_ANSWER = 4096


def prepare_suites(evaluation: EvaluationSpec, places: Places, tokenizer: Any) -> list[PreparedSuite]:
    """Write each suite's rows beside the splits. Raises Failure for rows that are none, or have not what is asked for."""
    return [_prepare(suite, _metrics(suite, evaluation), places, tokenizer) for suite in evaluation.suites or ()]


def guarded(suites: list[PreparedSuite], places: Places) -> list[Guarded]:
    """Their texts, which the training rows are compared with."""
    return [Guarded(suite.name, map(own_text, _lines(places.work_dir / suite.file))) for suite in suites]


def _metrics(suite: EvaluationSuite, evaluation: EvaluationSpec) -> list[Metric]:
    stated: list[Metric] = [*(suite.metrics or ["Loss"])]
    gated = [rule.metric for rule in evaluation.gate or () if rule.suite == suite.name]
    return [*stated, *dict.fromkeys(metric for metric in gated if metric not in stated)]


def _prepare(suite: EvaluationSuite, metrics: list[Metric], places: Places, tokenizer: Any) -> PreparedSuite:
    source = Source(uri=suite.uri, secret_ref=suite.secret_ref)
    files = [SourceFile("test", *file) for file in fetch_source(f"evaluation-{suite.name}", source, places)]
    row_format = first_format(files, Columns(), "sft")
    shape = prepared_format(row_format, "sft")
    if shape not in SHAPES:
        raise _refused(suite, f"rows of format {row_format} are no suite; {', '.join(SHAPES)} are")
    if shape == "Text" and (answered := sorted(ANSWERED & set(metrics))):
        raise _refused(suite, f"{answered[0]} compares answers, and rows of Text have none; take Loss or Perplexity")
    path = places.work_dir / DATA / f"suite-{suite.name}.jsonl"
    findings = Findings()
    rows = list(islice(_checked(files, row_format, findings), suite.max_rows))
    if findings.count:
        raise _refused(suite, findings.sentence())
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    return PreparedSuite(
        name=suite.name,
        file=f"{DATA}/{path.name}",
        sha256=sha256_of(path),
        rows=len(rows),
        format=shape,
        metrics=metrics,
        max_new_tokens=_longest_answer(suite, rows, shape, tokenizer),
    )


def _checked(files: list[SourceFile], row_format: RowFormat, findings: Findings) -> Iterator[Row]:
    for name, place, row in rows_of(files, findings):
        try:
            yield canonical(row, row_format, Columns(), frozenset())
        except Broken as broken:
            findings.add(name, place, broken)


def _longest_answer(suite: EvaluationSuite, rows: list[Row], shape: PreparedFormat, tokenizer: Any) -> int:
    encode, longest = encoder(tokenizer, shape, answers_only=False).answer, 1
    for number, row in enumerate(rows, 1):
        try:
            longest = max(longest, sum(label != IGNORED for label in encode(row).labels))
        except Refused as refused:
            raise _refused(suite, f"row {number}: {refused.message}") from None
    return min(LONGEST_ANSWER, longest)


def _lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from map(json.loads, file)


def _refused(suite: EvaluationSuite, why: str) -> Failure:
    return Failure(Reason.DATA_INVALID, f"evaluation.suites, {suite.name}: {why}")
