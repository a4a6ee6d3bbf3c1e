"""The model card is one that hubs can read: metadata with base, licence and figures, and a text for people."""

from typing import Any

import pytest
from huggingface_hub import ModelCard

from finetune_api.artifacts import Resolved, ResolvedAdapterSpec
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob_status import EvaluationStatus, GateResult, ResolvedBaseModel
from finetune_api.v1alpha1.output import CardSpec
from finetune_stage.scores import EvaluationFile, Gain
from finetune_trainer.card import model_card
from finetune_trainer.progress import Course
from prepared_jobs import spec_of, training

DIGEST = "sha256:" + "a" * 64
FIGURES = EvaluationStatus(
    split="test",
    rows=90,
    base={"Loss": 2.0, "TokenF1": 0.2},
    tuned={"Loss": 1.5, "TokenF1": 0.75},
    gate=[GateResult(metric="Loss", passed=True, message="Loss is 1.5 on 90 rows: at most 2: yes")],
)
EVALUATION = EvaluationFile(summary=FIGURES, seed=1, tuned=[])
CARD = CardSpec(license="apache-2.0", intended_use="Answers questions of **our** customers.")


def a_card(
    base: str = "hf://Qwen/Qwen3-8B", evaluation: EvaluationFile | None = EVALUATION, **changes: Any
) -> ModelCard:
    source = {"uri": "hf://datasets/owner/name@v1/rows.jsonl"}
    dataset = spec_of("s3://bucket").dataset
    resolved = Resolved(
        namespace="team-a",
        name="tiny",
        uid="u",
        method="sft",
        format="Messages",
        base_model=ResolvedBaseModel(uri=base),
        dataset=dataset.model_copy(update={"test": type(dataset.train).model_validate(source)}),
        splits=[],
        data_digest=DIGEST,
        adapter=ResolvedAdapterSpec(type="LoRA"),
        training=training(),
        evaluation=EvaluationSpec(),
        choices=[],
        output_folder="s3://bucket/tiny",
        **changes,
    )
    return ModelCard(model_card(resolved, Course(8, 1000, 1.0), evaluation, {"torch": "2.11"}))


def test_the_metadata_is_what_a_hub_reads() -> None:
    data = a_card(card=CARD).data
    assert (data.base_model, data.library_name, data.license) == ("Qwen/Qwen3-8B", "peft", "apache-2.0")
    assert data.datasets == ["owner/name"]
    assert data.pipeline_tag == "text-generation"
    found = {result.metric_name: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {"Loss": 1.5, "TokenF1": 0.75}
    assert found["TokenF1"].metric_type == "f1"
    assert found["TokenF1"].dataset_args == {"digest": DIGEST, "rows": 90}


def test_the_text_says_what_it_is_for_and_how_good() -> None:
    text = a_card(card=CARD).text
    for said in (CARD.intended_use, DIGEST, "| TokenF1 | 0.2 | 0.75 |", "at most 2: yes", "Gate: passed"):
        assert str(said) in text


def test_the_text_says_how_sure_a_change_is_and_what_serves_today() -> None:
    summary = FIGURES.model_copy(update={"previous": {"Loss": 1.75}})
    gains = {"Loss": Gain(low=0.25, value=0.5, high=0.75)}
    text = a_card(evaluation=EVALUATION.model_copy(update={"summary": summary, "gains": gains})).text
    table = [
        "| Metric | Base | Previous | Tuned | 95 % interval of the change |",
        "|---|---|---|---|---|",
        "| Loss | 2 | 1.75 | 1.5 | -0.75 to -0.25 |",
        "| TokenF1 | 0.2 |  | 0.75 |  |",
    ]
    assert "\n".join(table) in text


def test_a_gate_that_failed_is_told() -> None:
    failed = GateResult(metric="Loss", passed=False, message="Loss is 1.5 on 90 rows: at most 1: no")
    summary = FIGURES.model_copy(update={"gate": [failed]})
    assert "Gate: **failed**" in a_card(evaluation=EVALUATION.model_copy(update={"summary": summary})).text


def test_what_is_not_known_is_not_claimed() -> None:
    card = a_card(base="s3://bucket/base", evaluation=None)
    assert (card.data.base_model, card.data.license, card.data.eval_results) == (None, None, None)
    assert "s3://bucket/base" in card.text
    assert "`output.card.intendedUse`" in card.text


@pytest.mark.parametrize("use", ["---\nlicense: mit\n---", "a: b: c"])
def test_a_use_is_text_and_no_metadata(use: str) -> None:
    assert a_card(card=CardSpec(intended_use=use)).data.license is None
