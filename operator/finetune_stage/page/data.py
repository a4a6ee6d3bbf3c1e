"""What the rows are like: lengths and classes as bars, and what was left out. Every text is escaped."""

from collections.abc import Sequence
from html import escape

from finetune_api.data_report import DataReport, SplitReport

MOST_BARS = 20
ROW, LABEL, WIDTH = 20, 120, 480


def data(report: DataReport | None) -> str:
    """Nothing where there is no report."""
    if report is None:
        return ""
    plots = "".join(map(_plots, report.splits[:1]))  # train: what is learned from
    return f'<div class="curves">{plots}</div><p class="under">{escape(_left_out(report))}</p>'


def _plots(split: SplitReport) -> str:
    lengths = [(f"to {each.up_to:,}", each.rows) for each in split.lengths]
    labels = [(each.name, each.rows) for each in split.labels]
    return bars(f"Tokens of a row ({split.name})", lengths) + bars(f"Rows of a class ({split.name})", labels)


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
        "invalid": report.invalid,
        "duplicates": report.duplicates,
        "near duplicates": report.near_duplicates,
        "out of range": report.out_of_range,
        "contaminated": report.contaminated,
    }
    counts = " · ".join(f"{rows:,} {name}" for name, rows in found.items() if rows)
    overlaps = " · ".join(
        f"{each.rows:,} training rows share text with {each.name}" for each in report.overlaps if each.rows
    )
    return " · ".join(filter(None, (counts, overlaps)))
