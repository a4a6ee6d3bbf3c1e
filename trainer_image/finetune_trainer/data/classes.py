"""The classes of texts to classify: those that occur, and what cannot be learned from them."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from finetune_api.reasons import Failure, Reason
from finetune_trainer.data.sources import SplitName

MOST = 1000
LONGEST = 256
"""Characters of a name."""
SHOWN = 40


class Classes(NamedTuple):
    """What the rows' labels are."""

    names: tuple[str, ...]
    """Sorted; the head has one score for each."""
    several: bool
    """Whether a row has more than one, or none."""


def classes_of(files: dict[SplitName, Path], stated: list[str] | None) -> Classes:
    """Of the training rows, or as stated; :mod:`finetune_trainer.data.examining` has refused held-out rows with another.

    Raises Failure where they cannot be learned.
    """
    counts, several = _count(files["train"])
    if stated and (foreign := sorted(set(counts) - set(stated))):
        raise Failure(
            Reason.DATA_INVALID, f"train has class {shown(foreign[0])}, which is none of method.classification.labels"
        )
    names = tuple(stated or sorted(counts))
    if not 2 <= len(names) <= MOST:
        raise Failure(
            Reason.DATA_INVALID,
            f"the training rows have {len(names)} classes; classification needs 2 to {MOST}: is the column of the label right "
            "(dataset.columns)?",
        )
    if too_long := [name for name in names if len(name) > LONGEST]:
        raise Failure(
            Reason.DATA_INVALID, f"class {shown(too_long[0])} has over {LONGEST} characters: a class is a name"
        )
    several |= any(_count(path)[1] for path in files.values())
    return Classes(names, several)


def shown(name: str) -> str:
    """For a sentence, which goes to the status: where the column is wrong, a name is the text of a row."""
    return repr(name[:SHOWN]) + ("…" if len(name) > SHOWN else "")


def _count(path: Path) -> tuple[Counter[str], bool]:
    counts: Counter[str] = Counter()
    several = False
    with path.open("rb") as file:
        for line in file:
            labels = json.loads(line)["labels"]
            counts.update(labels)
            several |= len(labels) != 1
    return counts, several
