"""A row as somebody wrote it, brought into the form that is trained on, or refused."""

from typing import Any

import pytest

from finetune_api.v1alpha1.dataset import Columns
from finetune_trainer.data.findings import Broken
from finetune_trainer.data.formats import canonical


def prepared(row: dict[str, Any], format_: Any, labels: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The row that is trained on."""
    return canonical(row, format_, Columns(), labels)


def broken(row: dict[str, Any], format_: Any, labels: frozenset[str] = frozenset()) -> tuple[str, str]:
    """Field and found of a row that cannot be used."""
    with pytest.raises(Broken) as caught:
        prepared(row, format_, labels)
    return caught.value.field, caught.value.found
