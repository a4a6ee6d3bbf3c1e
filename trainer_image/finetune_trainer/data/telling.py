"""Which shape the rows have: as stated, or as the first row's fields tell; and one the method learns from."""

from collections.abc import Iterator, Sequence

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.dataset import Columns, DatasetSpec
from finetune_trainer.data.fields import Row
from finetune_trainer.data.findings import Findings
from finetune_trainer.data.formats import COLUMNS, METHOD_FORMATS, RowFormat, foreign_columns, methods_of, names, tell
from finetune_trainer.data.reading import read_rows
from finetune_trainer.data.sources import SourceFile


def row_format(train: list[SourceFile], dataset: DatasetSpec, method: str) -> RowFormat:
    """As stated, or as the first row's fields tell; one the method learns from."""
    columns = dataset.columns or Columns()
    stated = dataset.format
    found: RowFormat = first_format(train, columns, method) if stated in (None, "Auto") else stated  # type: ignore[assignment]
    possible = METHOD_FORMATS[method]
    if found not in possible:
        raise Failure(
            Reason.DATA_INVALID,
            f"{train[0].name}: rows of format {found} do not fit method {method}, which learns from "
            f"{_one_of(possible)}; to learn from them use method {_one_of(methods_of(found))}",
        )
    if foreign := foreign_columns(found, columns):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"dataset.columns: format {found} has no column {', '.join(foreign)}; it has {', '.join(COLUMNS[found])}",
        )
    return found


def _one_of(names: Sequence[str]) -> str:
    """As people list them: a, b or c."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def first_format(train: list[SourceFile], columns: Columns, method: str) -> RowFormat:
    """As the first row's fields tell. Raises Failure."""
    seen = Findings()
    for name, place, row in rows_of(train, seen):
        if (found := tell(row, columns, method)) is not None:
            return found
        fields = ", ".join(sorted(str(key)[:40] for key in row)[:8]) or "none"
        choices = "; ".join(f"{name}: {', '.join(names(name, columns).values())}" for name in COLUMNS)
        raise Failure(
            Reason.DATA_INVALID,
            f"{name} {place}: the row's fields ({fields}) are those of no format ({choices}); "
            "name the dataset's own fields in dataset.columns",
        )
    if seen.count:
        raise Failure(Reason.DATA_INVALID, seen.sentence())
    raise Failure(Reason.DATA_INVALID, f"{' and '.join(source.name for source in train[:3])}: there are no rows")


def rows_of(sources: list[SourceFile], findings: Findings) -> Iterator[tuple[str, str, Row]]:
    """File, place and object of every row."""
    for source in sources:
        for place, row in read_rows(source.path, source.name, findings):
            yield source.name, place, row
