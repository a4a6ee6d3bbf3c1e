"""The train stage on tiny models: what it learns, what it publishes, and how it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import Manifest, ResolvedAdapterSpec
from finetune_api.pods import JobConfig, Report
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.evaluation import EvaluationSpec, GateRule
from finetune_stage.outcome import Places
from finetune_stage.scores import EvaluationFile, RowScore
from finetune_storage import fetch_folder
from finetune_trainer import collect
from prepared_jobs import (
    COLOURS,
    TINY,
    colour_chats,
    colour_rows,
    job_store,
    prepare_job,
    texts,
    train_here,
    training,
)
from report_server import ReportServer
from tiny_models import write_tiny_llama

FULL = ResolvedAdapterSpec(type="Full")
LORA = ResolvedAdapterSpec(type="LoRA", rank=8, alpha=16, dropout=0.0)
QLORA = ResolvedAdapterSpec(type="QLoRA", rank=8, alpha=16, dropout=0.0)
ANSWERS = EvaluationSpec(
    metrics=["Loss", "Perplexity", "ExactMatch", "Accuracy"],
    labels=list(COLOURS),
    max_new_tokens=8,
    gate=[
        GateRule(metric="Accuracy", min=0.9, beats=["Base", "MajorityClass"]),
        GateRule(metric="Loss", max_ratio_to_base=0.9),
    ],
)
TEXT = EvaluationSpec(metrics=["Loss", "Perplexity"], gate=[GateRule(metric="Loss", max_ratio_to_base=0.8)])
LEARNING = training(steps=60, checkpoint_every_steps=30, batch_size=8, micro_batch_size=4, learning_rate=2e-2)
ROWS = {"train": colour_rows(96), "test": colour_rows(24, 200)}
CHATS = {"train": colour_chats(96), "test": colour_chats(24, 200)}
TEXTS = {"train": texts(200), "test": texts(12, 300)}


def fetched(config: JobConfig, secret: Path, dest: Path, key: str) -> Path:
    """A committed folder of the job, verified."""
    fetch_folder(job_store(config, secret.parent), key, dest, None)
    return dest


def published_scores(config: JobConfig, secret: Path) -> EvaluationFile:
    """evaluation.json."""
    return EvaluationFile.model_validate_json(job_store(config, secret.parent).get("evaluation.json"))


def scores_again(model: Any, tokenizer: Any, rows: list[dict[str, Any]], config: JobConfig, secret: Path) -> Any:
    """The held-out rows under a model made from the published files alone."""
    from finetune_api.artifacts import Resolved
    from finetune_stage.rows import Row
    from finetune_trainer.encode import encoder
    from finetune_trainer.evaluate import Exam, score
    from finetune_trainer.machine import Numerics

    resolved = Resolved.model_validate_json(job_store(config, secret.parent).get("resolved.json"))
    ids = [each.id for each in published_scores(config, secret).tuned]
    exam = Exam(
        encoder=encoder(tokenizer, resolved.format, resolved.training.assistant_only_loss),
        split="test",
        rows=[Row(id_, row) for id_, row in zip(ids, rows, strict=True)],
        metrics=frozenset(resolved.evaluation.metrics or ()),
        labels=tuple(resolved.evaluation.labels or ()),
        max_length=resolved.training.max_length,
        max_new_tokens=resolved.evaluation.max_new_tokens or 0,
        stop_tokens=model.generation_config.eos_token_id,
    )
    return score(model, exam, Numerics("cpu", bf16=False))


def assert_same(found: list[RowScore], published: list[RowScore]) -> None:
    assert [(each.id, each.tokens, each.exact, each.label_correct) for each in found] == [
        (each.id, each.tokens, each.exact, each.label_correct) for each in published
    ]
    assert [each.nll for each in found] == pytest.approx([each.nll for each in published], abs=1e-4)


@pytest.mark.parametrize(
    ("adapter", "rows", "steps"),
    [
        pytest.param(LORA, ROWS, 60, id="lora"),
        pytest.param(LORA, CHATS, 150, id="lora-messages"),
        pytest.param(QLORA, ROWS, 60, id="qlora"),
    ],
)
def test_an_adapter_learns_and_its_files_alone_give_the_same_answers(
    bucket: str, secret: Path, tmp_path: Path, adapter: ResolvedAdapterSpec, rows: dict[str, Any], steps: int
) -> None:
    base = write_tiny_llama(tmp_path / "base", hidden_size=64)  # bitsandbytes quantises blocks of 64 weights
    settings = LEARNING.model_copy(update={"steps": steps})
    config = prepare_job(bucket, secret.parent, rows, adapter=adapter, settings=settings, evaluation=ANSWERS, base=base)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.evaluation is not None
    assert trained.gate_passed, trained.evaluation.gate
    assert trained.evaluation.tuned["ExactMatch"] == 1.0

    from peft import PeftModel
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig

    from finetune_trainer.head import keep_quantised_weights_in_place

    folder = fetched(config, secret, tmp_path / "adapter", "adapter")
    stated = json.loads((folder / "adapter_config.json").read_bytes())
    assert stated["base_model_name_or_path"] == f"{bucket}/base"
    assert stated["target_modules"] == sorted(stated["target_modules"])
    weights = load_file(folder / "adapter_model.safetensors")
    assert {weight.dtype.name for weight in weights.values()} == {"float32"}, "learned in float32, QLoRA too"
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "work" / "base", quantization_config=quantised if adapter is QLORA else None
    )
    keep_quantised_weights_in_place(base)
    model = PeftModel.from_pretrained(base, folder)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "work" / "base")
    found = scores_again(model, tokenizer, rows["test"], config, secret)
    assert_same(found, published_scores(config, secret).tuned)
    with model.disable_adapter():
        found = scores_again(model, tokenizer, rows["test"], config, secret)
    assert_same(found, published_scores(config, secret).base or [])


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_full_model_is_published_as_it_was_evaluated(bucket: str, secret: Path, tmp_path: Path, stored: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = write_tiny_llama(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=stored).save_pretrained(base)
    settings = LEARNING.model_copy(update={"learning_rate": 5e-3})
    config = prepare_job(bucket, secret.parent, ROWS, adapter=FULL, settings=settings, evaluation=ANSWERS, base=base)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.artifact.kind == "Model"
    assert trained.gate_passed, trained.evaluation
    folder = fetched(config, secret, tmp_path / "model", "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == getattr(torch, stored)
    found = scores_again(model, AutoTokenizer.from_pretrained(folder), ROWS["test"], config, secret)
    assert_same(found, published_scores(config, secret).tuned)


def test_pretraining_from_random_weights_makes_a_model_others_can_load(
    bucket: str, secret: Path, tmp_path: Path
) -> None:
    settings = training(steps=60, batch_size=8, packing=True, learning_rate=5e-3, checkpoint_every_steps=60)
    config = prepare_job(
        bucket,
        secret.parent,
        TEXTS,
        method="cpt",
        adapter=FULL,
        settings=settings,
        evaluation=TEXT,
        from_config=TINY,
    )
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.gate_passed, trained.evaluation
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fetched(config, secret, tmp_path / "model", "model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (TINY.hidden_size, TINY.layers)
    assert_same(scores_again(model, tokenizer, TEXTS["test"], config, secret), published_scores(config, secret).tuned)


def test_everything_is_listed_and_the_outcome_can_be_collected(bucket: str, secret: Path, tmp_path: Path) -> None:
    config = prepare_job(bucket, secret.parent, ROWS, evaluation=ANSWERS)
    places = Places(secrets_dir=secret.parent, work_dir=tmp_path / "none")
    with pytest.raises(Failure, match="published nothing"):
        collect.run(config, places)
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert collect.run(config, places) == trained
    assert train_here(config, secret.parent, tmp_path / "none") == trained, "a later attempt has nothing to do"
    store = job_store(config, secret.parent)
    manifest = Manifest.model_validate_json(store.get("manifest.json"))
    assert {entry.path for entry in manifest.files} == {
        key for key in store.list() if not key.startswith("checkpoints/") and key != "manifest.json"
    }
    fetch_folder(store, "", tmp_path / "all", None)
    assert manifest.job is not None
    assert manifest.job.artifact.digest == trained.artifact.digest
    assert manifest.job.versions["torch"]
    assert not trained.gate_passed, "eight steps are too few"
    assert "Gate: **failed**" in store.get("adapter/README.md").decode()
    assert not [key for key in store.list("checkpoints/") if key.endswith("README.md")], "a card for nobody takes time"


@pytest.mark.parametrize("lost", ["manifest.json", "adapter/manifest.json", "evaluation.json"])
def test_an_attempt_that_died_while_publishing_is_finished(
    bucket: str, secret: Path, tmp_path: Path, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = prepare_job(bucket, secret.parent, ROWS, evaluation=ANSWERS)
    first = train_here(config, secret.parent, tmp_path / "first")
    store = job_store(config, secret.parent)
    before = store.get("manifest.json")
    store.delete(["manifest.json", lost])
    capsys.readouterr()
    assert train_here(config, secret.parent, tmp_path / "second") == first
    assert store.get("manifest.json") == before
    said = capsys.readouterr().out
    assert "step 8/8" not in said, "training is not repeated"
    assert "evaluating the base" not in said


def test_progress_is_reported_by_us_alone(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ReportServer()
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", server.url)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
    config = prepare_job(bucket, secret.parent, ROWS)
    train_here(config, secret.parent, tmp_path / "work")
    server.close()
    assert {authorization for authorization, _ in server.seen} == {"Bearer secret"}
    reports = [Report.model_validate(body) for _, body in server.seen]
    assert [report.trainer_status.progress_percentage for report in reports][-1] == 100
    assert [checkpoint.step for checkpoint in reports[-1].checkpoints or []] == [6, 8]
    # transformers' own callback writes microseconds
    assert all(len(str(report.trainer_status.last_updated_time)) == len("2026-01-01T00:00:00Z") for report in reports)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "divisor", "expected"),
    [(16, 16, 1, (16, 1)), (16, 4, 2, (2, 8)), (12, 9, 1, (6, 2)), (6, 2, 8, (1, 6)), (1, 16, 1, (1, 1))],
)
def test_a_smaller_micro_batch_keeps_the_batch(
    batch_size: int, micro_batch_size: int, divisor: int, expected: tuple[int, int]
) -> None:
    from finetune_trainer.train import split_batch

    assert split_batch(batch_size, micro_batch_size, divisor) == expected


def test_accumulated_gradients_are_those_of_the_whole_batch(bucket: str, secret: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    rows = {"train": [row | {"completion": row["completion"] * (1 + i % 5)} for i, row in enumerate(colour_rows(32))]}
    settings = training(batch_size=8, micro_batch_size=8, steps=4)
    weights, losses = [], []
    for divisor in (1, 8):
        name = f"divided-by-{divisor}"
        config = prepare_job(bucket, secret.parent, rows, name=name, adapter=LORA, settings=settings)
        train_here(config, secret.parent, tmp_path / name, divisor)
        folder = fetched(config, secret, tmp_path / f"{name}-adapter", "adapter")
        weights.append(load_file(folder / "adapter_model.safetensors"))
        losses.append([line["loss"] for line in metrics(config, secret)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, whole in weights[0].items():
        assert whole == pytest.approx(weights[1][name], abs=2e-5), name


def metrics(config: JobConfig, secret: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in job_store(config, secret.parent).get("metrics.jsonl").splitlines()]


def test_packed_rows_do_not_see_each_other(bucket: str, secret: Path, tmp_path: Path) -> None:
    """The first step's loss over all rows is the same, packed or not; then so are the masks and positions."""
    rows, losses, norms = {"train": colour_rows(8)}, [], []
    for packing in (False, True):
        name = f"packing-{packing}".lower()
        settings = training(steps=1, batch_size=8, micro_batch_size=8, packing=packing, max_length=128)
        config = prepare_job(bucket, secret.parent, rows, name=name, adapter=LORA, settings=settings)
        train_here(config, secret.parent, tmp_path / name)
        [line] = metrics(config, secret)
        losses.append(line["loss"])
        norms.append(line["gradNorm"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_recomputed_activations_give_the_same_gradients(bucket: str, secret: Path, tmp_path: Path) -> None:
    """Behind a frozen embedding nothing would learn, unless its output is made to ask for gradients."""
    rows, found = {"train": colour_rows(8)}, []
    for recompute in (False, True):
        name = f"recompute-{recompute}".lower()
        settings = training(steps=1, batch_size=8, micro_batch_size=8, gradient_checkpointing=recompute)
        config = prepare_job(bucket, secret.parent, rows, name=name, adapter=LORA, settings=settings)
        train_here(config, secret.parent, tmp_path / name)
        [line] = metrics(config, secret)
        found.append((line["loss"], line["gradNorm"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[1][1] > 0


def test_gradients_of_a_quantised_base_survive_an_evaluation(bucket: str, secret: Path, tmp_path: Path) -> None:
    """bitsandbytes repacks weights at a forward in eval mode on some CPUs; gradients after it were silently wrong."""
    import torch

    from finetune_stage.rows import open_output
    from finetune_trainer.adapter import add_adapter
    from finetune_trainer.inputs import read_inputs
    from finetune_trainer.machine import Numerics
    from finetune_trainer.model import fetch_base, load_base
    from finetune_trainer.world import World

    base = write_tiny_llama(tmp_path / "base", hidden_size=128)
    config = prepare_job(bucket, secret.parent, ROWS, adapter=QLORA, base=base)
    places = Places(secrets_dir=secret.parent, work_dir=tmp_path / "work")
    inputs = read_inputs(open_output(config, places), places)
    numerics = Numerics("cpu", bf16=True)
    model = add_adapter(load_base(inputs, fetch_base(inputs, World()), numerics).model, QLORA, seed=1)
    ids = torch.arange(4, 68).view(1, -1)

    def gradients() -> torch.Tensor:
        model.train()
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before = gradients()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        model.eval()
        model(input_ids=ids)
    assert torch.count_nonzero(before)
    assert torch.equal(gradients(), before)


def test_padding_changes_no_answer(bucket: str, secret: Path, tmp_path: Path) -> None:
    """Prompts of unlike length, one by one and as a batch."""
    from finetune_trainer.batching import BATCH_TOKENS

    rows = [row | {"prompt": "thing " * (i % 4) + row["prompt"]} for i, row in enumerate(colour_rows(12))]
    both = {"train": rows, "test": rows}
    config = prepare_job(bucket, secret.parent, both, adapter=LORA, evaluation=ANSWERS, settings=LEARNING)
    train_here(config, secret.parent, tmp_path / "work")
    together = published_scores(config, secret)
    assert all(row.exact for row in together.tuned)
    store = job_store(config, secret.parent)
    store.delete(["manifest.json", "checkpoints/base-scores.json"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BATCH_TOKENS, "cpu", 1)
        train_here(config, secret.parent, tmp_path / "again")
    alone = published_scores(config, secret)
    assert_same(alone.tuned, together.tuned)
    assert_same(alone.base or [], together.base or [])


def test_without_held_out_rows_a_gate_cannot_pass(bucket: str, secret: Path, tmp_path: Path) -> None:
    rows = {"train": colour_rows(12)}
    settings = training(steps=1)
    free = prepare_job(bucket, secret.parent, rows, name="free", settings=settings)
    trained = train_here(free, secret.parent, tmp_path / "free")
    assert (trained.evaluation, trained.gate_passed) == (None, True)
    gated = prepare_job(bucket, secret.parent, rows, name="gated", settings=settings, evaluation=ANSWERS)
    trained = train_here(gated, secret.parent, tmp_path / "gated")
    assert not trained.gate_passed
    assert trained.evaluation is not None
    assert all("no held-out rows" in result.message for result in trained.evaluation.gate or [])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        pytest.param(8, "the gradient norm became nan in step 2", id="a-logged-step"),
        pytest.param(1000, "the gradient norm became nan in step 2", id="between-logged-steps"),
    ],
)
def test_a_diverged_training_ends_at_once(bucket: str, secret: Path, tmp_path: Path, steps: int, message: str) -> None:
    settings = training(
        steps=steps,
        checkpoint_every_steps=steps,
        learning_rate=1e30,
        scheduler="Constant",
        warmup_ratio=0.0,
        max_grad_norm=1e9,
    )
    config = prepare_job(bucket, secret.parent, ROWS, adapter=FULL, settings=settings)
    with pytest.raises(Failure, match=message) as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.NON_FINITE_LOSS
    assert not job_store(config, secret.parent).list("checkpoints/step-"), "its weights are lost"


def test_running_out_of_memory_names_the_micro_batch(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from finetune_trainer.methods.sft import SupervisedTrainer

    def greedy(*_: Any, **__: Any) -> None:
        torch.empty(2**50)

    monkeypatch.setattr(SupervisedTrainer, "compute_loss", greedy)
    config = prepare_job(bucket, secret.parent, ROWS)
    with pytest.raises(Failure, match="a micro batch of 1 rows of up to 48 tokens") as caught:
        train_here(config, secret.parent, tmp_path / "work", divisor=2)
    assert caught.value.reason is Reason.OUT_OF_MEMORY


def test_what_was_not_prepared_is_not_trained_on(bucket: str, secret: Path, tmp_path: Path) -> None:
    config = prepare_job(bucket, secret.parent, ROWS)
    job_store(config, secret.parent).put("data/train.jsonl", b'{"prompt": "other", "completion": "rows"}\n')
    with pytest.raises(Failure, match=r"train\.jsonl has sha256") as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT


def test_unknown_target_modules_are_answered_with_the_known_ones(bucket: str, secret: Path, tmp_path: Path) -> None:
    adapter = ResolvedAdapterSpec(type="LoRA", target_modules=("query",))
    config = prepare_job(bucket, secret.parent, ROWS, adapter=adapter)
    with pytest.raises(Failure, match=r"\['query'\].* down_proj, .*q_proj") as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_a_base_that_lacks_weights_is_not_trained_on_random_ones(bucket: str, secret: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    base = write_tiny_llama(tmp_path / "base", tied=False)
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    config = prepare_job(bucket, secret.parent, ROWS, base=base)
    with pytest.raises(Failure, match=r"lack 1 of the weights .* config.json asks for, the first lm_head.weight"):
        train_here(config, secret.parent, tmp_path / "work")


def test_a_base_that_is_no_model_is_named(bucket: str, secret: Path, tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base")
    (base / "model.safetensors").write_bytes(b"not safetensors")
    config = prepare_job(bucket, secret.parent, ROWS, base=base)
    with pytest.raises(Failure, match=f"{bucket}/base cannot be loaded") as caught:
        train_here(config, secret.parent, tmp_path / "work")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
