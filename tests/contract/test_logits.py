"""What of the logits is computed, and kept, where rows are scored: they are by far the largest tensors there are."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer.adapter import add_adapter
from finetune_trainer.encode import IGNORED, Example
from finetune_trainer.evaluate import at_rest, likelihoods
from finetune_trainer.machine import Numerics
from finetune_trainer.methods import sft
from prepared_jobs import FULL, LORA, ROWS, ResolvedAdapterSpec, prepare_job, train_here, training
from tiny_models import write_tiny_llama

ROW = list(range(5, 45))
EXAMPLES = [
    Example(ROW, [IGNORED] * 36 + ROW[36:]),
    Example(ROW[:30], [IGNORED] * 24 + ROW[24:30]),
    Example(ROW[:3], [IGNORED] * 3),
    Example(ROW[:9], ROW[:9]),
]


@pytest.mark.parametrize(
    "adapter", [LORA, ResolvedAdapterSpec(type="Prompt", virtual_tokens=5)], ids=lambda it: it.type
)
def test_only_logits_from_the_first_label_on_are_computed(tmp_path: Path, adapter: ResolvedAdapterSpec) -> None:
    from transformers import AutoModelForCausalLM

    model = add_adapter(AutoModelForCausalLM.from_pretrained(write_tiny_llama(tmp_path)), adapter, seed=1)
    computed: list[int] = []
    head = model.get_base_model().get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].shape[1]))
    found = []
    with at_rest(model):
        for example in EXAMPLES:
            found += likelihoods(model, [example])
        assert computed == [5, 7, 3, 9]
        whole = [model(input_ids=torch.tensor([each.input_ids])).logits[0, -len(each.input_ids) :] for each in EXAMPLES]
        together = likelihoods(model, EXAMPLES)
    for (nll, tokens), logits, (_, labels, _) in zip(found, whole, EXAMPLES, strict=True):
        target = torch.tensor(labels[1:])
        right = torch.nn.functional.cross_entropy(logits[:-1], target, ignore_index=IGNORED, reduction="sum")
        assert (nll, tokens) == (pytest.approx(right.item(), abs=1e-4), int((target != IGNORED).sum()))
    assert [nll for nll, _ in together] == pytest.approx([nll for nll, _ in found], abs=1e-4)


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=lambda it: it.type)
def test_the_tuned_model_returns_its_logits_as_the_base_does(
    bucket: str, secret: Path, tmp_path: Path, adapter: ResolvedAdapterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under bfloat16 accelerate turns them into float32."""
    seen, score = [], sft.score

    def watched(model: Any, exam: Any, numerics: Numerics) -> Any:
        with at_rest(model), numerics.autocast():
            seen.append(model(input_ids=torch.tensor([ROW])).logits.dtype)
        return score(model, exam, numerics)

    monkeypatch.setattr(sft, "score", watched)
    settings = training(steps=1, precision="BFloat16")
    config = prepare_job(bucket, secret.parent, ROWS, adapter=adapter, settings=settings)
    train_here(config, secret.parent, tmp_path / "work")
    assert seen == [torch.bfloat16, torch.bfloat16]
