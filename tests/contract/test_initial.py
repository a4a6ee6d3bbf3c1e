"""Going on from an earlier job's adapter: it learns on, the reference is that adapter, and what contradicts it is refused."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from safetensors.torch import load_file

from finetune_api.artifacts import Resolved, ResolvedAdapterSpec
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.adapter import AdapterSpec
from finetune_api.v1alpha1.evaluation import EvaluationSpec
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import EarlierAdapter, SecretRef
from finetune_api.v1alpha1.reinforcement import GrpoMethod, PpoMethod, RegexReward, RewardSpec
from finetune_api.v1alpha1.training import MethodSpec
from finetune_stage.outcome import Places
from finetune_storage import open_store
from finetune_trainer import prepare
from finetune_trainer.choices import Choices
from finetune_trainer.encode import IGNORED, Example
from finetune_trainer.initial import adopted
from finetune_trainer.plan_adapter import resolved_adapter
from json_lines import stored
from prepared_jobs import colour_rows, preferences, prepare_job, stored_base, train_here, training, verdicts
from s3_server import S3Server
from tiny_models import write_tiny_llama

LOSS = EvaluationSpec(metrics=["Loss"])
GRPO = GrpoMethod(
    rewards=[RewardSpec(regex=RegexReward(pattern="[a-m]"))],
    num_generations=4,
    max_new_tokens=2,
    temperature=1.0,
    beta=0.1,
)
PPO = PpoMethod(
    rewards=[RewardSpec(regex=RegexReward(pattern="[a-m]"))],
    max_new_tokens=2,
    temperature=1.0,
    kl_coefficient=0.1,
    clip_range=0.2,
    gamma=1.0,
    gae_lambda=0.95,
    epochs=2,
    value_coefficient=0.1,
)
SAMPLING = {"grpo": MethodSpec(grpo=GRPO), "ppo": MethodSpec(ppo=PPO)}
ROWS = {"train": colour_rows(24), "test": colour_rows(6, 200)}


class First(NamedTuple):
    """A finished job."""

    bucket: str
    base: ResolvedBaseModel
    base_folder: Path
    adapter: EarlierAdapter
    folder: Path
    """Its published files."""
    digest: str
    loss: float


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> First:
    secrets = s3_server.secret(tmp_path_factory.mktemp("secrets") / "s3").parent
    folder = write_tiny_llama(tmp_path_factory.mktemp("base"))
    bucket = s3_server.bucket(f"initial-{uuid4().hex[:12]}")
    base = stored_base(bucket, secrets, folder)
    lora = ResolvedAdapterSpec(type="LoRA", rank=8, alpha=24, dropout=0.0, target_modules=("q_proj", "down_proj"))
    settings = training(steps=8, checkpoint_every_steps=8, learning_rate=2e-2, batch_size=8, micro_batch_size=8)
    config = prepare_job(
        bucket, secrets, ROWS, name="first", adapter=lora, settings=settings, evaluation=LOSS, base=base
    )
    work = tmp_path_factory.mktemp("first")
    trained = train_here(config, secrets, work)
    assert trained.evaluation is not None
    ref = EarlierAdapter(uri=trained.artifact.uri, secret_ref=SecretRef(name="s3"))
    return First(
        bucket, base, folder, ref, work / "artifact", str(trained.artifact.digest), trained.evaluation.tuned["Loss"]
    )


def places(secret: Path, tmp_path: Path) -> Places:
    return Places(secrets_dir=secret.parent, work_dir=tmp_path, secret_wait=1)


def go_on(
    first: First, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, **job: Any
) -> tuple[Any, Any]:
    """The trainer of a job that goes on, after the training; and what was published."""
    stated = AdapterSpec(type="LoRA", initial=first.adapter, dropout=0.0)
    choices = Choices()
    adapter = resolved_adapter(*_adopted(stated, first, secret, tmp_path, choices))
    assert (adapter.rank, adapter.alpha, adapter.target_modules) == (8, 24, ("down_proj", "q_proj"))
    assert {each.field: each.value for each in choices.made}["adapter.rank"] == "8"
    module = importlib.import_module(f"finetune_trainer.methods.{method}")
    made, real = [], module.trainer
    monkeypatch.setattr(module, "trainer", lambda lesson: made.append(real(lesson)) or made[-1])
    settings = training(steps=3, checkpoint_every_steps=3, learning_rate=2e-2, batch_size=8, micro_batch_size=8)
    config = prepare_job(
        first.bucket,
        secret.parent,
        name=method,
        method=method,
        adapter=adapter,
        settings=settings,
        base=first.base,
        **job,
    )
    return made, train_here(config, secret.parent, tmp_path / "work")


def _adopted(stated: AdapterSpec, first: First, secret: Path, tmp_path: Path, choices: Choices) -> tuple[Any, ...]:
    spec, inherited = adopted(stated, first.base, places(secret, tmp_path))
    return spec, choices, (0.05, "usual"), inherited


def log_probabilities(first: First, rows: Any, prompt: str, answer: str, *, tuned: bool) -> list[float]:
    """Of the answers, under the base or under the first job's adapter as published."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from finetune_trainer.evaluate import at_rest, likelihoods

    model = AutoModelForCausalLM.from_pretrained(first.base_folder)
    if tuned:
        model = PeftModel.from_pretrained(model, first.folder)
    examples = [Example(row[prompt] + row[answer], [IGNORED] * len(row[prompt]) + row[answer]) for row in rows]
    with at_rest(model):
        return [-nll for nll, _ in likelihoods(model, examples)]


@pytest.mark.parametrize(
    ("method", "rows", "columns"),
    [
        ("dpo", preferences(16), ("chosen_ids", "ref_chosen_logps")),
        ("kto", verdicts(8), ("completion_ids", "ref_logps")),
    ],
)
def test_the_reference_is_the_initial_adapter(
    first: First,
    secret: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    rows: list[dict[str, Any]],
    columns: tuple[str, str],
) -> None:
    [trainer], trained = go_on(first, secret, tmp_path, monkeypatch, method, rows={"train": rows})
    answer, reference = columns
    learned_from = trainer.train_dataset
    its = log_probabilities(first, learned_from, "prompt_ids", answer, tuned=True)
    assert list(learned_from[reference]) == pytest.approx(its, abs=1e-3)
    base = log_probabilities(first, learned_from, "prompt_ids", answer, tuned=False)
    assert max(abs(one - other) for one, other in zip(its, base, strict=True)) > 1
    assert trained.artifact.servable == "Adapter"


def test_grpo_keeps_the_initial_adapter_beside_and_publishes_one(
    first: First, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [trainer], _ = go_on(
        first,
        secret,
        tmp_path,
        monkeypatch,
        "grpo",
        rows={"train": colour_rows(12)},
        method_settings=MethodSpec(grpo=GRPO),
    )
    before = load_file(first.folder / "adapter_model.safetensors")
    published = tmp_path / "work" / "artifact"
    after = load_file(published / "adapter_model.safetensors")
    assert not [path for path in published.rglob("*") if path.is_dir()]
    kept = dict(trainer.model.named_parameters())
    for name, weights in before.items():
        assert kept[name.replace(".weight", ".ref.weight")].equal(weights), "the reference moved"
        assert not after[name].equal(weights), "nothing was learned"


def test_ppo_measures_from_the_initial_adapter(
    first: First, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [trainer], _ = go_on(
        first,
        secret,
        tmp_path,
        monkeypatch,
        "ppo",
        rows={"train": colour_rows(12)},
        method_settings=MethodSpec(ppo=PPO),
    )
    before = load_file(first.folder / "adapter_model.safetensors")
    after = load_file(tmp_path / "work" / "artifact" / "adapter_model.safetensors")
    with trainer._reference.in_place():
        names = dict(trainer.model.named_parameters())
        assert all(names[name.replace(".weight", ".default.weight")].equal(weights) for name, weights in before.items())
    assert not any(after[name].equal(weights) for name, weights in before.items()), "nothing was learned"


def test_a_second_job_goes_on_where_the_first_ended(
    first: First, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trained = go_on(first, secret, tmp_path, monkeypatch, "sft", rows=ROWS, evaluation=LOSS)
    assert trained.loss < 1.2 * first.loss
    card = (tmp_path / "work" / "artifact" / "README.md").read_text()
    assert f"| Initial adapter | {first.adapter.uri} {first.digest} |" in card
    assert trained.evaluation.tuned["Loss"] < first.loss
    assert trained.evaluation.base["Loss"] > 1.3 * first.loss, "the base is the base"


@pytest.mark.parametrize("method", ["dpo", "grpo", "ppo"])
def test_a_resumed_run_has_the_same_reference_and_ends_the_same(
    first: First, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from finetune_trainer.methods.lesson import Watched

    adapter = resolved_adapter(
        *_adopted(AdapterSpec(type="LoRA", initial=first.adapter), first, secret, tmp_path, Choices())
    )
    settings = training(steps=4, checkpoint_every_steps=2, learning_rate=2e-2, batch_size=8, micro_batch_size=8)
    case: dict[str, Any] = {"method": method, "adapter": adapter, "settings": settings, "base": first.base}
    case["method_settings"] = SAMPLING.get(method)
    rows = {"train": preferences(16) if method == "dpo" else colour_rows(12)}
    whole, broken = (
        prepare_job(first.bucket, secret.parent, rows, name=f"{method}-{name}", **case) for name in ("whole", "broken")
    )
    train_here(whole, secret.parent, tmp_path / "whole")
    real = Watched.training_step

    def pulled_out(self: Any, *rest: Any, **more: Any) -> Any:
        if self.state.global_step == 2:
            raise ConnectionError("the plug is out")
        return real(self, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Watched, "training_step", pulled_out)
        with pytest.raises(ConnectionError):
            train_here(broken, secret.parent, tmp_path / "broken")
    train_here(broken, secret.parent, tmp_path / "again")
    weights = [tmp_path / name / "artifact" / "adapter_model.safetensors" for name in ("whole", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_prepare_writes_the_pinned_adapter_and_what_it_brings(first: First, secret: Path, tmp_path: Path) -> None:
    store = open_store(first.bucket, secret)
    s3 = {"name": "s3"}
    spec = {
        "baseModel": {"uri": first.base.uri, "secretRef": s3},
        "dataset": {"train": stored(store, "data/train.jsonl", preferences(16))},
        "method": {"dpo": {}},
        "adapter": {"type": "LoraPlus", "initial": first.adapter.wire()},
        "output": {"uri": first.bucket, "secretRef": s3},
    }
    config = JobConfig(
        namespace="team-a",
        name="on-top",
        uid="u",
        spec=FineTuneJobSpec.model_validate(spec),
        base_model=first.base,
        image="i",
    )
    done = prepare.run(config, places(secret, tmp_path))
    resolved = Resolved.model_validate_json(store.get("team-a/on-top/u/resolved.json"))
    assert resolved.adapter.initial is not None
    assert resolved.adapter.initial.digest == first.digest
    assert (resolved.adapter.rank, resolved.adapter.alpha, resolved.adapter.learning_rate_ratio) == (8, 24, 16.0)
    assert ("adapter.rank", "8", "that of the initial adapter") in [
        (each.field, each.value, each.reason) for each in done.plan.choices
    ]


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"rank": 4}, "adapter.rank is 4, and adapter.initial has 8: leave it out"),
        ({"alpha": 8}, "adapter.alpha is 8, and adapter.initial has 24: leave it out"),
        (
            {"target_modules": ["all-linear"]},
            r"adapter.targetModules is \['all-linear'\], and adapter.initial has \['down",
        ),
        ({"type": "QDoRA"}, "adapter.type is QDoRA, and adapter.initial has LoRA: name an adapter of type DoRA"),
    ],
    ids=["rank", "alpha", "targets", "type"],
)
def test_what_contradicts_the_initial_adapter(
    first: First, secret: Path, tmp_path: Path, stated: dict[str, Any], sentence: str
) -> None:
    spec = AdapterSpec(**({"type": "LoRA", "initial": first.adapter} | stated))
    with pytest.raises(Failure, match=sentence):
        adopted(spec, first.base, places(secret, tmp_path))


def test_an_adapter_of_another_base_or_with_another_digest(first: First, secret: Path, tmp_path: Path) -> None:
    other = ResolvedBaseModel(uri="s3://b/other", digest="sha256:" + "0" * 64)
    spec = AdapterSpec(type="QLoRA", initial=first.adapter)
    with pytest.raises(Failure, match=r"adapter\.initial: .* was made for .* this job starts from s3://b/other"):
        adopted(spec, other, places(secret, tmp_path))
    wrong = first.adapter.model_copy(update={"digest": other.digest})
    with pytest.raises(Failure, match=r"has digest sha256:.*, expected sha256:000"):
        adopted(AdapterSpec(type="LoRA", initial=wrong), first.base, places(secret, tmp_path))
