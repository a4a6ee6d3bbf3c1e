"""What the rows are like: lengths and classes as bars, and what was left out; and data-report.html. Every text is escaped."""

from collections.abc import Sequence
from html import escape

from finetune_api.data_report import DataReport, SplitReport
from finetune_stage.page.frame import document, section, table

MOST_BARS = 20
ROW, LABEL, WIDTH = 20, 120, 480


def data_page(report: DataReport, title: str) -> str:
    """The whole report, to be read before anything is trained."""
    name = escape(title)
    return document(
        f"{name}: data",
        [
            f'<header><h1>{name}: data</h1><p class="under">{escape(report.format)} · {escape(_left_out(report))}</p></header>',
            section("Splits", _splits(report)),
            *(section(f"Rows of {each.name}", f'<div class="curves">{_plots(each)}</div>') for each in report.splits),
            section("Secrets and personal data", _sensitive(report.splits)),
            section("Rows left out as invalid", _invalid(report)),
            section("Files", _sources(report)),
        ],
    )


def _splits(report: DataReport) -> str:
    figures = [
        ["Rows", *(f"{each.rows:,}" for each in report.splits)],
        ["Tokens", *(f"{each.tokens:,}" for each in report.splits)],
        ["Tokens of a row: median", *(f"{each.median:,}" for each in report.splits)],
        ["99 % have at most", *(f"{each.p99:,}" for each in report.splits)],
        ["Longest", *(f"{each.longest:,}" for each in report.splits)],
        [f"Rows beyond {report.max_length:,} tokens", *(f"{each.truncated_rows:,}" for each in report.splits)],
        ["Tokens cut off", *(f"{each.truncated_tokens:,} ({_cut_share(each):.1%})" for each in report.splits)],
        ["Answers that refuse", *(f"{each.refused_answers:,}" for each in report.splits)],
    ]
    return table(["", *(each.name for each in report.splits)], figures, numbers=set(range(1, 4)))


def _cut_share(split: SplitReport) -> float:
    return split.truncated_tokens / max(1, split.tokens)


def _sensitive(splits: Sequence[SplitReport]) -> str:
    found = [
        [each.name, escape(count.name), f"{count.rows:,}"]
        for each in splits
        for count in (*each.secrets, *each.personal_data)
    ]
    return table(["Split", "What rows seem to hold", "Rows"], found, numbers={2}) if found else ""


def _invalid(report: DataReport) -> str:
    if not report.invalid:
        return ""
    kinds = [[escape(each.name), f"{each.rows:,}"] for each in report.invalid_kinds]
    first = [
        list(map(escape, (each.file, each.place, each.field, each.found, each.expected)))
        for each in report.invalid_rows
    ]
    shown = f'<p class="under">The first {len(first):,} of {report.invalid:,}:</p>'
    listed = table(["File", "Row", "Field", "Found", "Expected"], first)
    return table(["What is wrong", "Rows"], kinds, numbers={1}) + shown + listed


def _sources(report: DataReport) -> str:
    rows = [[escape(each.name), f"{each.rows:,}", f"{each.bytes:,}"] for each in report.sources]
    return table(["File", "Rows", "Bytes"], rows, numbers={1, 2})


def data(report: DataReport | None) -> str:
    """Nothing where there is no report."""
    if report is None:
        return ""
    plots = "".join(map(_plots, report.splits[:1]))  # train: what is learned from
    return f'<div class="curves">{plots}</div><p class="under">{escape(_left_out(report))}</p>'


def _plots(split: SplitReport) -> str:
    lengths = [(f"to {each.up_to:,}", each.rows) for each in split.lengths]
    labels = [(each.name, each.rows) for each in split.labels]
    answers = [(f"to {each.up_to:,}", each.rows) for each in split.answer_lengths]
    languages = [(each.name, each.rows) for each in split.languages]
    return (
        bars(f"Tokens of a row ({split.name})", lengths)
        + bars(f"Tokens of an answer ({split.name})", answers)
        + bars(f"Rows of a class ({split.name})", labels)
        + bars(f"Languages of {split.language_rows:,} rows ({split.name})", languages)
    )


def bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    """Horizontal bars with their figures; the first MOST_BARS, in the order given."""
    shown = counts[:MOST_BARS]
    if not shown:
        return ""
    most = max(rows for _, rows in shown)
    height = 34 + ROW * len(shown)
    drawn = "".join(_bar(place, label, rows, most) for place, (label, rows) in enumerate(shown))
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f'<text class="title" x="8" y="18">{escape(title)}</text>{drawn}</svg></figure>'
    )


def _bar(place: int, label: str, rows: int, most: int) -> str:
    y = 30 + ROW * place
    width = (WIDTH - LABEL - 70) * rows / max(1, most)
    short = label if len(label) <= 16 else f"{label[:15]}…"
    return (
        f'<text x="{LABEL - 8}" y="{y + 11}" text-anchor="end">{escape(short)}</text>'
        f'<rect class="bar" x="{LABEL}" y="{y}" width="{width:.1f}" height="14" rx="3"/>'
        f'<text x="{LABEL + width + 6:.1f}" y="{y + 11}">{rows:,}</text>'
    )


def _left_out(report: DataReport) -> str:
    found = {
        "rows read": report.rows_read,
        "mixed in": report.mixed,
        "invalid": report.invalid,
        "duplicates": report.duplicates,
        "near duplicates": report.near_duplicates or 0,
        "out of range": report.out_of_range,
        "contaminated": report.contaminated,
    }
    counts = " · ".join(f"{rows:,} {name}" for name, rows in found.items() if rows)
    overlaps = " · ".join(
        f"{each.rows:,} training rows share text with {each.name}" for each in report.overlaps if each.rows
    )
    return " · ".join(filter(None, (counts, overlaps)))
