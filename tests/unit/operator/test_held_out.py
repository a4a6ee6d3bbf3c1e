"""What is asked of held-out rows is refused where none are named: nothing of an evaluation is ignored, and no gate passes unasked."""

from typing import Any

import pytest

from builders import TRAIN, World, a_job, a_spec, a_summary, condition, message
from finetune_api.pods import Summary
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import EvaluationStatus, SuiteStatus
from finetune_operator.reconcile.finetunejob.checks import BEFORE_START, first_finding

SUITE = {"name": "general", "uri": "s3://evals/general.jsonl"}
OF_SUITE = {"metric": "Loss", "suite": "general", "maxDropVersusBase": 0.1}
OF_ROWS = {"metric": "Loss", "max": 3}
CURE = "and the dataset names none: set dataset.test, dataset.validation, dataset.split.test or dataset.split.validation, or leave"
TEST, VALIDATION = {"split": {"test": 0.1}}, {"validation": {"uri": "s3://data/watched.jsonl"}}


def finding(evaluation: dict[str, Any], dataset: dict[str, Any] | None = None, **fields: Any) -> str | None:
    spec = a_spec(evaluation=evaluation, **fields)
    spec["dataset"] = spec["dataset"] | (dataset or {})
    found = first_finding(BEFORE_START, FineTuneJobSpec.model_validate(spec))
    return found.message if found else None


@pytest.mark.parametrize(
    ("evaluation", "names"),
    [
        ({"metrics": ["Loss"]}, "metrics"),
        ({"maxNewTokens": 8}, "maxNewTokens"),
        ({"generation": {"temperature": 0.5}}, "generation"),
        ({"samples": 3}, "samples"),
        ({"answerFormat": {"regex": {"pattern": "a|b"}}}, "answerFormat"),
        ({"previous": {"uri": "s3://models/old/adapter"}}, "previous"),
        ({"metrics": ["Loss"], "suites": [SUITE]}, "metrics"),
    ],
)
def test_what_needs_rows_is_refused_without_any(evaluation: dict[str, Any], names: str) -> None:
    assert finding(evaluation) == f"evaluation.{names} needs held-out rows, {CURE} it out."
    assert finding(evaluation, TEST) is None
    assert finding(evaluation, VALIDATION) is None


def test_all_of_them_are_named() -> None:
    said = finding({"metrics": ["Loss"], "samples": 3})
    assert said == f"evaluation.metrics and evaluation.samples need held-out rows, {CURE} them out."


def test_of_a_delegated_job_too() -> None:
    delegated = {"baseModel": {"uri": "openai://gpt"}, "backend": {"openai": {"secretRef": {"name": "key"}}}}
    assert (
        finding({"metrics": ["ExactMatch"]}, **delegated) == f"evaluation.metrics needs held-out rows, {CURE} it out."
    )
    assert finding({"metrics": ["ExactMatch"]}, TEST, **delegated) is None


@pytest.mark.parametrize(
    "evaluation",
    [
        pytest.param({}, id="nothing is asked for"),
        pytest.param({"labels": ["a", "b"]}, id="labels, by which the training rows are checked"),
        pytest.param({"suites": [SUITE]}, id="suites alone"),
        pytest.param({"suites": [SUITE], "gate": [OF_SUITE]}, id="a gate on a suite"),
        pytest.param({"compareWithBase": False}, id="no base to compare with"),
    ],
)
def test_what_needs_no_rows_is_taken(evaluation: dict[str, Any]) -> None:
    assert finding(evaluation) is None


def test_a_gate_is_decided_on_test_rows_or_on_suites() -> None:
    mixed = {"suites": [SUITE], "gate": [OF_SUITE, OF_ROWS]}
    said = "evaluation.gate is decided on test rows: set dataset.test or dataset.split.test, or name a suite in every rule."
    assert finding(mixed) == said
    assert finding(mixed, VALIDATION) == said
    assert finding(mixed, TEST) is None


def test_an_evaluation_on_suites_alone_is_told() -> None:
    world = World(a_job(evaluation={"suites": [SUITE]}))
    world.training()
    summary = Summary.model_validate_json(a_summary("Train"))
    assert summary.trained is not None
    suite = SuiteStatus(name="general", rows=16, tuned={"Loss": 2.25})
    evaluation = EvaluationStatus(split="none", rows=0, tuned={}, suites=[suite])
    trained = summary.trained.model_copy(update={"evaluation": evaluation})
    told = summary.model_copy(update={"trained": trained})
    world.end_pod(TRAIN, 0, told.model_dump_json(by_alias=True, exclude_none=True))
    status = world.settle()
    assert condition(status, "Evaluated") == ("True", "Evaluated")
    assert message(status, "Evaluated") == "On 16 rows of suite general: Loss 2.25."
