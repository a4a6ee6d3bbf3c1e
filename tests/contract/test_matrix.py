"""Every cell of the table of methods and adapters: it learns, and its published files alone give the same answers.

A method joins this test with rows in ROWS; until then matrix.py refuses its pairs but those its own tests try.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec, ResolvedTraining
from finetune_api.matrix import ADAPTERS, refusal
from finetune_api.pods import JobConfig
from finetune_api.servable import servable
from finetune_api.v1alpha1.adapter import LOW_RANK, VIRTUAL_TOKENS
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_storage import fetch_folder
from prepared_jobs import Rows, colour_rows, job_store, preferences, prepare_job, texts, train_here, training
from tiny_models import write_tiny_llama

ROWS: dict[str, dict[str, Rows]] = {
    "sft": {"train": colour_rows(48), "test": colour_rows(6, 200)},
    "cpt": {"train": texts(48), "test": texts(6, 200)},
    "dpo": {"train": preferences(48), "test": preferences(6, 200)},
    "reward": {"train": preferences(48), "test": preferences(6, 200)},
}
CELLS = [(method, adapter) for method in ROWS for adapter in ADAPTERS if refusal(method, adapter) is None]
"""Other methods are tried with their few adapters by tests of their own."""
RATES = {"Full": 5e-3, "LoraPlus": 5e-3, "IA3": 5e-2, "Prefix": 5e-2, "Prompt": 5e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of all cells; bitsandbytes quantises blocks of 64 weights."""
    return write_tiny_llama(tmp_path_factory.mktemp("base"), hidden_size=64)


@pytest.mark.parametrize(("method", "adapter"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_cell_learns_and_its_files_alone_give_the_same_answers(
    bucket: str, secret: Path, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, method: str, adapter: str
) -> None:
    published = spy_on_publishing(monkeypatch)
    spec, settings = cell_settings(method, adapter)
    config = prepare_job(
        bucket,
        secret.parent,
        ROWS[method],
        method=method,
        adapter=spec,
        settings=settings,
        evaluation=EvaluationSpec(metrics=["Loss"]),
        base=base,
    )
    trained = train_here(config, secret.parent, tmp_path / "work")
    losses = [line["loss"] for line in metrics(config, secret)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5]), losses
    if trained.evaluation is not None and trained.evaluation.base is not None:
        assert trained.evaluation.tuned["Loss"] < trained.evaluation.base["Loss"]
    assert trained.artifact.kind == ("Model" if adapter == "Full" else "Adapter")
    assert (trained.artifact.servable, trained.artifact.servable_reason) == servable(method, spec.type, spec.rank)
    found = answers(loaded(config, secret, tmp_path, adapter))
    assert found == pytest.approx(answers(published[0]), abs=1e-4)


def cell_settings(method: str, adapter: str) -> tuple[ResolvedAdapterSpec, ResolvedTraining]:
    """Small, quick to learn."""
    own: dict[str, Any] = {}
    if adapter in LOW_RANK:
        own = {"rank": 4, "alpha": 8, "dropout": 0.0}
    elif adapter in VIRTUAL_TOKENS:
        own = {"virtual_tokens": 8}
    elif adapter == "IA3":
        own = {"target_modules": ()}
    if adapter == "LoraPlus":
        own["learning_rate_ratio"] = 4.0
    rate = RATES.get(adapter, 2e-2)
    settings = training(
        steps=24, checkpoint_every_steps=24, learning_rate=rate, micro_batch_size=4, packing=method == "cpt"
    )
    return ResolvedAdapterSpec(type=adapter, **own), settings


def spy_on_publishing(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that are published from now on."""
    from finetune_trainer import recipe

    seen: list[Any] = []
    publish = recipe.publish

    def spy(model: Any, *rest: Any) -> Any:
        seen.append(model)
        return publish(model, *rest)

    monkeypatch.setattr(recipe, "publish", spy)
    return seen


def metrics(config: JobConfig, secret: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in job_store(config, secret.parent).get("metrics.jsonl").splitlines()]


def loaded(config: JobConfig, secret: Path, tmp_path: Path, adapter: str) -> Any:
    """The model as another library would load it: its published files, and the base's."""
    import transformers
    from peft import PeftModel

    from finetune_trainer.model import keep_quantised_weights_in_place

    folder = tmp_path / "published"
    fetch_folder(job_store(config, secret.parent), "model" if adapter == "Full" else "adapter", folder, None)
    whole = folder if adapter == "Full" else tmp_path / "work" / "base"
    described = folder if (folder / "config.json").exists() else whole  # a head is described beside its adapter
    about = transformers.AutoConfig.from_pretrained(described)
    about.__dict__.pop("quantization_config", None)  # the training's own; stated below
    [kind] = about.architectures
    if described is not whole:  # stored is how many scores it gives, not that it gives scores
        kind = kind.replace("ForCausalLM", "ForSequenceClassification")
    nf4 = transformers.BitsAndBytesConfig(
        llm_int8_skip_modules=["score", "lm_head"],
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )
    model = getattr(transformers, kind).from_pretrained(
        whole, config=about, quantization_config=nf4 if adapter in ("QLoRA", "QDoRA") else None
    )
    keep_quantised_weights_in_place(model)
    return model if adapter == "Full" else PeftModel.from_pretrained(model, folder)


def answers(model: Any) -> Any:
    """Logits (or scores) of a few fixed tokens."""
    import torch

    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(40, 60).view(1, -1)).logits.float().numpy()
