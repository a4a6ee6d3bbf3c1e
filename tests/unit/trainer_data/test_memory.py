"""The memory plan: what it predicts against what an H200 measured, what it chooses, and what it refuses."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import SHAPES
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import KubernetesBackend
from finetune_trainer import fitting
from finetune_trainer.fitting import Asked, Fit, fit
from finetune_trainer.memory import Load, Memory, Shape, predict, shape_of

MEASURED = Path(__file__).parents[2] / "measured_memory.jsonl"
"""By benchmarks/memory.py on an H200 (torch 2.11, transformers 5.17, TRL 1.16, PEFT 0.21.2, bitsandbytes 0.50.2); those of AdamW8bit on
an H100, each in a process of its own."""
LINES = [json.loads(line) for line in MEASURED.read_text().splitlines()]
EIGHT = SHAPES["Llama-3.1-8B"][1]
H200 = fitting.MODELS["H200"]


def predicted(line: dict[str, Any]) -> Memory:
    """What the plan would have said."""
    said = predict(
        SHAPES[line["shape"]][1], Load(**{each.name: line[each.name] for each in fields(Load) if each.name in line})
    )
    assert said is not None
    return said


def test_enough_was_measured() -> None:
    assert len(LINES) >= 24
    assert {line["adapter"] for line in LINES} == {"Full", "LoRA", "QLoRA", "DoRA"}
    assert {line["shape"] for line in LINES} == set(SHAPES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(str(line[name]) for name in list(line)[:8]))
def test_prediction_is_within_five_percent(line: dict[str, Any]) -> None:
    said = predicted(line)
    assert said.allocated == pytest.approx(line["allocated"], rel=0.05)
    assert said.reserved == pytest.approx(line["reserved"], rel=0.05)


def test_terms_add_up() -> None:
    for line in LINES:
        said = predicted(line)
        assert said.allocated == said.weights + said.gradients + said.optimizer + said.activations + said.logits


@pytest.mark.parametrize("adapter", ["QDoRA", "IA3", "Prefix", "Prompt"])
def test_what_is_not_counted_is_not_predicted(adapter: Any) -> None:
    assert predict(EIGHT, Load(adapter, 1024, 1, recompute=False)) is None


def test_shapes_are_read_from_configurations() -> None:
    from transformers import BertConfig, LlamaConfig, Qwen3Config

    llama = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, vocab_size=100)
    assert shape_of(llama) == Shape(64, 11008, 32, 4, 2, 16, 100, False)
    assert shape_of(Qwen3Config()).qk_norm
    assert shape_of(BertConfig()) is None


def chosen(shape: Shape, gpu: str, adapter: Any, length: int, batch: int = 16, **stated: Any) -> Fit:
    found = fit(shape, fitting.MODELS[gpu], Asked(Load(adapter, length, 1, recompute=False), batch, **stated))
    assert found is not None
    assert found.memory.reserved <= fitting.MODELS[gpu].memory * fitting.USABLE
    return found


ANY = {"micro_batch": None, "recompute": None}


@pytest.mark.parametrize(
    ("gpu", "adapter", "length", "micro_batch", "recompute"),
    [
        pytest.param("H200", "LoRA", 4096, 2, False, id="room enough: activations are kept"),
        pytest.param("H100-80GB", "LoRA", 4096, 2, False, id="61 GiB fit 79"),
        pytest.param("A100-40GB", "LoRA", 4096, 2, True, id="kept activations do not fit: recomputed"),
        pytest.param("L4", "QLoRA", 2048, 1, False, id="enough tokens with one row"),
        pytest.param("L4", "QLoRA", 4096, 2, True, id="a small GPU"),
        pytest.param("H200", "LoRA", 512, 16, False, id="short rows: many of them"),
    ],
)
def test_the_fastest_that_fits_is_chosen(
    gpu: str, adapter: str, length: int, micro_batch: int, recompute: bool
) -> None:
    found = chosen(EIGHT, gpu, adapter, length, **ANY)
    assert (found.micro_batch, found.recompute) == (micro_batch, recompute)


def test_stated_values_stay() -> None:
    found = chosen(EIGHT, "H200", "LoRA", 4096, micro_batch=1, recompute=True)
    assert (found.micro_batch, found.recompute) == (1, True)
    assert found.largest > 30


def test_the_largest_micro_batch_is_the_last_that_fits() -> None:
    largest = chosen(EIGHT, "H200", "LoRA", 4096, **ANY).largest
    sizes = [
        predict(EIGHT, Load("LoRA", 4096, rows, recompute=False, accumulation=8)) for rows in (largest, largest + 1)
    ]
    room = H200.memory * fitting.USABLE
    assert sizes[0] is not None
    assert sizes[1] is not None
    assert sizes[0].reserved <= room < sizes[1].reserved


def test_what_cannot_fit_is_refused_with_the_figure() -> None:
    with pytest.raises(
        Failure, match=r"at least 13\d\.\d GiB.*of H100-80GB 74\.4 GiB.*adapter LoRA or QLoRA"
    ) as caught:
        fit(EIGHT, fitting.MODELS["H100-80GB"], Asked(Load("Full", 1024, 1, recompute=False), 16, None, None))
    assert caught.value.reason is Reason.DOES_NOT_FIT


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ({}, None),
        ({"gpus": 1}, None),
        ({"gpus": 1, "gpuModel": "L40S"}, fitting.MODELS["L40S"]),
        ({"gpus": 1, "gpuMemory": "48Gi"}, fitting.Gpu("a GPU of 48Gi", 48 * 2**30, None)),
        ({"gpus": 1, "gpuMemory": "1.5T"}, fitting.Gpu("a GPU of 1.5T", 1_500_000_000_000, None)),
    ],
)
def test_the_stated_gpu(backend: dict[str, Any], expected: object) -> None:
    assert fitting.gpu_of(KubernetesBackend.model_validate(backend)) == expected
