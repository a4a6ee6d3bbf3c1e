"""Rows may lie in the same places whatever they are for: one rule for sources and for suites of both kinds."""

import re
from typing import Any

import pytest

from finetune_api.crd import definitions
from finetune_api.v1alpha1.dataset import ROWS_URI

[SPEC] = [
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    for crd in definitions()
    if crd["spec"]["names"]["kind"] == "FineTuneJob"
]
DATASET, EVALUATION = SPEC["dataset"]["properties"], SPEC["evaluation"]["properties"]
FIELDS = {
    "dataset.train": DATASET["train"],
    "dataset.mix.source": DATASET["mix"]["properties"]["source"],
    "dataset.quality.suites": DATASET["quality"]["properties"]["suites"]["items"],
    "evaluation.suites": EVALUATION["suites"]["items"],
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_every_field_that_names_rows_has_the_rule(field: dict[str, Any]) -> None:
    rules = {each["message"]: each["rule"] for each in field["x-kubernetes-validations"]}
    assert rules[ROWS_URI[1]].removeprefix("!has(self.uri) || ") == ROWS_URI[0]


@pytest.mark.parametrize(
    ("uri", "is_one"),
    [
        ("s3://bucket/rows/*.jsonl", True),
        ("gs://bucket/rows/", True),
        ("hf://datasets/owner/name@v1/file.parquet", True),
        ("gs://bucket", False),
        ("hf://owner/name/file", False),
        ("abfs://bucket/key", False),
    ],
)
def test_an_address_of_rows(uri: str, is_one: bool) -> None:
    """The pattern means the same to RE2, which the API server has, and to Python."""
    pattern = ROWS_URI[0].removeprefix("self.uri.matches('").removesuffix("')")
    assert bool(re.search(pattern, uri)) is is_one
