"""Every cell of the table of methods and adapters: it learns, and its published files alone give the same answers.

A method joins this test with rows in ROWS; until then matrix.py refuses its pairs but those its own tests try.
"""

from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy
import pytest

from finetune_api.artifacts import ResolvedAdapterSpec, ResolvedTraining
from finetune_api.matrix import ADAPTERS, METRICS, SAMPLING_METHODS, refusal
from finetune_api.pods import JobConfig, Trained
from finetune_api.servable import servable
from finetune_api.v1alpha1.adapter import LOW_RANK, VIRTUAL_TOKENS
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.methods import ClassificationMethod
from finetune_api.v1alpha1.reinforcement import GrpoMethod, RegexReward, RewardSpec
from finetune_api.v1alpha1.training import MethodSpec
from finetune_storage import fetch_folder
from prepared_jobs import (
    COLOURS,
    PPO,
    Rows,
    classes,
    colour_rows,
    job_store,
    preferences,
    prepare_job,
    stored_base,
    texts,
    train_here,
    training,
    verdicts,
)
from published_models import metrics
from s3_server import S3Server
from tiny_models import write_tiny_llama

ROWS: dict[str, dict[str, Rows]] = {
    "sft": {"train": colour_rows(48), "test": colour_rows(6, 200)},
    "cpt": {"train": texts(48), "test": texts(6, 200)},
    "dpo": {"train": preferences(48), "test": preferences(6, 200)},
    "kto": {"train": verdicts(24), "test": verdicts(6, 200)},
    "orpo": {"train": preferences(48), "test": preferences(6, 200)},
    "reward": {"train": preferences(48), "test": preferences(6, 200)},
    "ppo": {"train": colour_rows(48)},
    "grpo": {"train": colour_rows(12)},
    "classification": {"train": classes(48), "test": classes(6, 200)},
}
METHODS = {
    "classification": MethodSpec(classification=ClassificationMethod(labels=sorted(COLOURS), multi_label=False)),
    "ppo": MethodSpec(ppo=PPO),
    "grpo": MethodSpec(
        grpo=GrpoMethod(
            rewards=[RewardSpec(regex=RegexReward(pattern="[a-m]"))],
            num_generations=8,
            max_new_tokens=1,
            temperature=1.0,
            beta=0.0,
        )
    ),
}
"""Settings without which they say nothing. An answer of one token is a letter in so many of 320 cases."""
CELLS = [(method, adapter) for method in ROWS for adapter in ADAPTERS if refusal(method, adapter) is None]
RATES = {"Full": 5e-3, "LoraPlus": 5e-3, "IA3": 1e-1, "Prefix": 5e-2, "Prompt": 5e-2}
STEPS = {"IA3": 16, "Prefix": 16, "Prompt": 16}


class Base(NamedTuple):
    """A stored base."""

    bucket: str
    ref: ResolvedBaseModel


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Base:
    """The base of all cells, stored once; bitsandbytes quantises blocks of 64 weights."""
    folder = write_tiny_llama(tmp_path_factory.mktemp("base"), hidden_size=64)
    bucket = s3_server.bucket(f"matrix-{uuid4().hex[:12]}")
    secret = s3_server.secret(tmp_path_factory.mktemp("secrets") / "s3")
    return Base(bucket, stored_base(bucket, secret.parent, folder))


@pytest.mark.parametrize(("method", "adapter"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_cell_learns_and_its_files_alone_give_the_same_answers(
    secret: Path, tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch, method: str, adapter: str
) -> None:
    published = spy_on_publishing(monkeypatch)
    spec, settings = cell_settings(method, adapter)
    config = prepare_job(
        base.bucket,
        secret.parent,
        ROWS[method],
        name=f"{method}-{adapter}".lower(),
        method=method,
        method_settings=METHODS.get(method),
        adapter=spec,
        settings=settings,
        evaluation=EvaluationSpec(metrics=["RewardMargin" if "RewardMargin" in METRICS[method] else "Loss"]),  # type: ignore[index]
        base=base.ref,
    )
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert_learned(trained, metrics(config, secret))
    assert trained.artifact.kind == ("Model" if adapter == "Full" else "Adapter")
    assert (trained.artifact.servable, trained.artifact.servable_reason) == servable(method, spec.type, spec.rank)
    found = answers(loaded(config, secret, tmp_path, adapter))
    assert numpy.abs(found - answers(published[0])).max() < 1e-4


def assert_learned(trained: Trained, lines: list[dict[str, Any]]) -> None:
    """On rows held out, or by the rewards of its own answers."""
    if trained.evaluation is None:
        rewards = [line["reward"] for line in lines]
        assert sum(rewards[-3:]) > 1.3 * sum(rewards[:3]), rewards
        return
    before, after = trained.evaluation.base, trained.evaluation.tuned
    assert before is not None
    if "RewardMargin" in after:
        assert after["RewardMargin"] > before["RewardMargin"] + 0.1, (before, after)
    else:
        assert after["Loss"] < 0.95 * before["Loss"], (before, after)


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
    steps = STEPS.get(adapter, 8)
    rows = 32 if method in SAMPLING_METHODS else 8
    settings = training(
        steps=steps,
        checkpoint_every_steps=steps,
        learning_rate=RATES.get(adapter, 2e-2),
        batch_size=rows,
        micro_batch_size=rows,
        packing=method == "cpt",
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


def loaded(config: JobConfig, secret: Path, tmp_path: Path, adapter: str) -> Any:
    """The model as another library would load it: its published files, and the base's."""
    import transformers
    from peft import PeftModel

    from finetune_trainer.head import keep_quantised_weights_in_place

    folder = tmp_path / "published"
    fetch_folder(job_store(config, secret.parent), "model" if adapter == "Full" else "adapter", folder, None)
    whole = folder if adapter == "Full" else tmp_path / "work" / "base"
    described = folder if (folder / "config.json").exists() else whole  # a head is described beside its adapter
    about = transformers.AutoConfig.from_pretrained(described)
    assert not hasattr(about, "quantization_config"), "it describes the plain base"
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
