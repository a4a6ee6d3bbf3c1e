"""Every example is what the API takes, can be carried out by this operator, and refers only to what an earlier one makes.

Applying and finishing them is the end-to-end tests' part.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from documents import dropped
from finetune_api.v1alpha1.adapterdeployment import AdapterDeployment
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.reconcile.finetunejob.checks import BEFORE_START, first_finding
from finetune_operator.reconcile.pool_members import unsupported

ROOT = Path(__file__).parents[1]
FIRST_JOB = ROOT / "charts" / "finetune-operator" / "files" / "first-job.yaml"
EXAMPLES = sorted((ROOT / "examples").glob("*/"))
FILES = [FIRST_JOB, *sorted((ROOT / "examples").glob("*/*.yaml"))]

Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    """The objects of our kinds in a file."""
    found = [each for each in yaml.safe_load_all(path.read_text()) if each["apiVersion"] == "finetune.dev/v1alpha1"]
    assert found, f"{path} has no object of ours"
    return found


def names(path: Path) -> str:
    """Id of a test."""
    return str(path.relative_to(ROOT))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_examples_are_numbered_without_gaps() -> None:
    assert [path.name[:3] for path in EXAMPLES] == [f"{number:02}-" for number in range(1, len(EXAMPLES) + 1)]


@pytest.mark.parametrize("path", FILES, ids=names)
def test_no_field_is_misspelt(path: Path) -> None:
    for document in documents(path):
        model = {"FineTuneJob": FineTuneJob, "AdapterDeployment": AdapterDeployment}[document["kind"]]
        asked = {"spec": document["spec"]}
        assert dropped(asked, model.model_validate(asked).wire()) == []


@pytest.mark.parametrize("path", FILES, ids=names)
def test_this_operator_can_carry_it_out(path: Path) -> None:
    for document in documents(path):
        if document["kind"] == "FineTuneJob":
            job = FineTuneJob.model_validate({"spec": document["spec"]})
            assert first_finding(BEFORE_START, job.spec) is None
        else:
            spec = AdapterDeployment.model_validate({"spec": document["spec"]}).spec
            assert spec.server is None or unsupported(spec, spec.server) is None


def test_a_reference_is_to_an_earlier_example() -> None:
    made: set[str] = set()
    for path in FILES:
        for document in documents(path):
            spec = document["spec"]
            references = [spec.get("baseModel", {}).get("jobRef"), spec.get("adapter", {}).get("jobRef")]
            method = spec.get("method") or {}
            rewarded = method.get("grpo") or method.get("ppo") or {}
            references.append(rewarded.get("rewardModel", {}).get("jobRef"))
            references.append(spec.get("adapter", {}).get("initial", {}).get("jobRef"))
            assert {each["name"] for each in references if each} <= made, path
            made.add(document["metadata"]["name"])
