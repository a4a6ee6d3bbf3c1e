"""data/report.json: what the prepare stage found in a dataset. Figures and places only; no row is ever quoted.

Every list is bounded, so that the report of any dataset is a page.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.model import ApiModel

MOST_BINS = 64
MOST_COUNTS = 50
MOST_SOURCES = 100
MOST_FINDINGS = 100


class Bin(ApiModel):
    """A bar of a histogram."""

    up_to: int
    """Largest value it counts; the smallest is one more than that of the bar before."""
    rows: int


Histogram = Annotated[list[Bin], Field(max_length=MOST_BINS)]


class Count(ApiModel):
    """How many rows there are of a kind; the most frequent first."""

    name: str
    rows: int


Counts = Annotated[list[Count], Field(max_length=MOST_COUNTS)]


class SourceReport(ApiModel):
    """A file of the dataset."""

    name: str
    rows: int
    """Rows read, valid or not."""
    bytes: int
    """Size as it lies in storage."""


class InvalidRow(ApiModel):
    """The first problem of a row."""

    file: str
    place: str
    """As in "line 7", or "row 7"."""
    field: str
    found: str
    expected: str


class SplitReport(ApiModel):
    """A prepared split."""

    name: Literal["train", "validation", "test"]
    rows: int
    tokens: int
    """Of all rows, uncut."""
    longest: int
    """Tokens of the longest row."""
    median: int
    """Tokens of a row."""
    p99: int
    """Tokens that 99 % of the rows do not exceed."""
    truncated_rows: int
    """Rows longer than training.maxLength."""
    truncated_tokens: int
    """Tokens that are cut off."""
    lengths: Histogram
    """Tokens of a row."""
    answer_lengths: Histogram
    """Tokens of a row that are learned (train), or of its answer."""
    labels: Counts
    """Rows per class (Classification), or per answer where evaluation.labels names them."""
    languages: Counts
    """Of languageRows rows; language codes as of ISO 639-1."""
    language_rows: int
    """Rows whose language was told: all of them, or at most 2000, evenly spread."""
    refused_answers: int
    """Answers that begin as a refusal ("I'm sorry, but …")."""
    secrets: Counts
    """Rows that hold what looks like a secret, by kind."""
    personal_data: Counts
    """Rows that hold what looks like personal data, by kind."""


class Overlap(ApiModel):
    """Training rows that contain thirteen words in a row of another text."""

    name: str
    """test, validation, or the suite's name."""
    rows: int


class DataReport(ApiModel):
    """What was read, what was left out and why, and what the rows are like."""

    format: str
    """Shape of the source's rows."""
    prepared_format: str
    max_length: int
    """training.maxLength, which the truncation is about."""
    sources: Annotated[list[SourceReport], Field(max_length=MOST_SOURCES)]
    """The first files."""
    rows_read: int
    invalid: int
    """Left out as invalid."""
    invalid_rows: Annotated[list[InvalidRow], Field(max_length=MOST_FINDINGS)]
    """The first of them; all are in invalid-rows.jsonl."""
    invalid_kinds: Counts = Field(default_factory=list)
    """What is wrong, by field; numbers left out of both."""
    duplicates: int
    """Left out as copies."""
    near_duplicates: int | None = None
    """Left out as nearly copies; null where they were not looked for (dataset.quality.deduplicate is not Near)."""
    out_of_range: int
    """Left out for minTokens or maxTokens."""
    overlaps: Annotated[list[Overlap], Field(max_length=16)]
    """Contamination found in the training rows."""
    contaminated: int
    """Training rows left out for it (decontaminate: true)."""
    mixed: int = 0
    """Training rows that are general text (dataset.mix)."""
    mixed_tokens: int = 0
    """Tokens of those rows."""
    splits: Annotated[list[SplitReport], Field(max_length=3)]
