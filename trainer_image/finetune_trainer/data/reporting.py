"""data/report.json and status.dataset out of what was read, left out and found."""

from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

from finetune_api.artifacts import ResolvedTraining
from finetune_api.data_report import (
    MOST_SOURCES,
    Bin,
    DataReport,
    InvalidRow,
    Overlap,
    SourceReport,
    SplitReport,
)
from finetune_api.model import Digest
from finetune_api.v1alpha1.finetunejob_status import DatasetStatus, SplitStatistics
from finetune_trainer.data.examining import Examined
from finetune_trainer.data.measuring import Lengths
from finetune_trainer.data.sources import SourceFile, SplitName
from finetune_trainer.data.splits import Prepared
from finetune_trainer.data.survey import Survey, counts

EDGES = [edge for power in range(4, 32) for edge in (2**power, 2**power + 2 ** (power - 1))]
"""16, 24, 32, 48, 64, …: bars that tell short rows apart, and are few for long ones."""


def data_report(
    data: Prepared, found: Examined, training: ResolvedTraining, sources: Iterable[SourceFile]
) -> DataReport:
    """The report; what is cut off depends on the plan's length."""
    joined = training.packing and data.format == "Text"
    return DataReport(
        format=data.row_format,
        prepared_format=data.format,
        max_length=training.max_length,
        sources=[_source(source.name, source.path, data) for source in list(sources)[:MOST_SOURCES]],
        rows_read=data.findings.rows,
        invalid=data.findings.count,
        invalid_rows=[InvalidRow.model_validate(vars(finding)) for finding in data.findings.first],
        invalid_kinds=counts(data.findings.kinds),
        duplicates=data.duplicates,
        near_duplicates=data.near_duplicates,
        out_of_range=found.out_of_range,
        overlaps=[Overlap(name=guarded.name, rows=guarded.rows) for guarded in found.guarded],
        contaminated=found.contaminated,
        mixed=len(found.mixed.tokens),
        mixed_tokens=sum(found.mixed.tokens),
        splits=[
            _split(split, found.lengths[split], found.surveys[split], None if joined else training.max_length)
            for split in data.files
        ],
    )


def dataset_status(
    data: Prepared, found: Examined, splits: list[SplitStatistics], resolved_digest: Digest
) -> DatasetStatus:
    """What the job's status says of the rows."""
    return DatasetStatus(
        format=data.row_format,
        splits=splits,
        duplicates=data.duplicates,
        invalid=data.findings.count,
        near_duplicates=data.near_duplicates or 0,
        out_of_range=found.out_of_range,
        overlapping=found.overlapping,
        contaminated=found.contaminated,
        mixed=len(found.mixed.tokens),
        sensitive=sum(survey.sensitive for survey in found.surveys.values()),
        resolved_digest=resolved_digest,
    )


def _source(name: str, path: Path, data: Prepared) -> SourceReport:
    return SourceReport(name=name, rows=data.sources[name], bytes=path.stat().st_size)


def _split(name: SplitName, lengths: Lengths, survey: Survey, limit: int | None) -> SplitReport:
    """``limit``: rows are cut there; None where nothing is cut off."""
    over = [tokens - limit for tokens in lengths.tokens if tokens > limit] if limit is not None else []
    return SplitReport(
        name=name,
        rows=len(lengths.tokens),
        tokens=lengths.total(),
        longest=max(lengths.tokens),
        median=lengths.percentile(0.5),
        p99=lengths.percentile(0.99),
        truncated_rows=len(over),
        truncated_tokens=lengths.total() - lengths.total(limit),
        lengths=histogram(lengths.tokens),
        answer_lengths=histogram(lengths.learned),
        labels=counts(survey.labels),
        languages=counts(survey.languages),
        language_rows=survey.languages.total(),
        refused_answers=survey.refusals,
        secrets=counts(survey.secrets),
        personal_data=counts(survey.personal),
    )


def histogram(values: Iterable[int]) -> list[Bin]:
    """Bars from the first that counts a row to the last."""
    rows = [0] * len(EDGES)
    for value in values:
        rows[bisect_left(EDGES, value)] += 1
    filled = [place for place, count in enumerate(rows) if count]
    if not filled:
        return []
    return [Bin(up_to=EDGES[place], rows=rows[place]) for place in range(filled[0], filled[-1] + 1)]
