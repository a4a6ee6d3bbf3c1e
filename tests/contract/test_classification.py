"""Classification: decoders and encoders, whole and by adapter, one class or several; their files alone give the same figures."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GateRule
from finetune_api.v1alpha1.methods import ClassificationMethod
from finetune_api.v1alpha1.training import MethodSpec
from prepared_jobs import COLOURS, colour_rows, prepare_job, train_here, training
from published_models import ADAPTERS, loaded, published, scores
from tiny_models import write_tiny_bert, write_tiny_llama

ACCURATE = EvaluationSpec(metrics=["Loss", "Accuracy"], gate=[GateRule(metric="Accuracy", min=0.9, beats=["Base"])])
LORA = ADAPTERS[1].values[0]


def texts(count: int, first: int, *, several: bool = False) -> list[dict[str, Any]]:
    """The class is the colour named first; with several, whether the number is even is one too."""
    rows = colour_rows(count, first)
    more = ["even"] if several else []
    return [
        {"text": row["prompt"], "labels": [row["completion"].strip(), *(more if place % 2 == 0 else [])]}
        for place, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("adapter", "rate", "base_of"),
    [
        pytest.param(
            *each.values, write_tiny_bert if place else write_tiny_llama, id=f"{'en' if place else 'de'}coder-{each.id}"
        )
        for place, each in enumerate([ADAPTERS[1], *ADAPTERS])  # decoders with the others are tried by test_matrix.py
    ],
)
def test_classes_are_learned_and_the_files_alone_know_them_too(
    bucket: str, secret: Path, tmp_path: Path, adapter: ResolvedAdapterSpec, rate: float, base_of: Any
) -> None:
    base = base_of(tmp_path / "base", hidden_size=64)
    rows = {"train": texts(96, 0), "test": texts(24, 200)}
    config = prepare_job(
        bucket,
        secret.parent,
        rows,
        method="classification",
        method_settings=MethodSpec(classification=ClassificationMethod(labels=sorted(COLOURS), multi_label=False)),
        adapter=adapter,
        settings=training(
            steps=60, checkpoint_every_steps=30, batch_size=8, micro_batch_size=8, learning_rate=rate / 2
        ),
        evaluation=ACCURATE,
        base=base,
    )
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.gate_passed, trained.evaluation
    model, tokenizer = loaded(config, secret, tmp_path, base)
    assert model.config.id2label == dict(enumerate(sorted(COLOURS)))
    found, stored = scores(model, tokenizer, rows["test"], config, secret), published(config, secret).tuned
    assert [each.nll for each in found] == pytest.approx([each.nll for each in stored], abs=1e-3)
    assert [each.label_correct for each in found] == [each.label_correct for each in stored]


def test_a_text_can_have_several_classes(bucket: str, secret: Path, tmp_path: Path) -> None:
    rows = {"train": texts(96, 0, several=True), "test": texts(24, 200, several=True)}
    stated = ClassificationMethod(labels=sorted([*COLOURS, "even"]), multi_label=True)
    config = prepare_job(
        bucket,
        secret.parent,
        rows,
        method="classification",
        method_settings=MethodSpec(classification=stated),
        adapter=LORA,
        settings=training(steps=60, checkpoint_every_steps=30, batch_size=8, micro_batch_size=8, learning_rate=1e-2),
        evaluation=EvaluationSpec(metrics=["Loss", "MacroF1"], gate=[GateRule(metric="Loss", max_ratio_to_base=0.7)]),
    )
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.gate_passed, trained.evaluation
    labels = published(config, secret).labels
    assert labels is not None
    assert trained.evaluation is not None
    assert set(labels) == {*COLOURS, "even"}
    assert trained.evaluation.tuned["MacroF1"] == pytest.approx(sum(each.f1 for each in labels.values()) / 4)
