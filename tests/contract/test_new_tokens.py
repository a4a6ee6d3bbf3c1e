"""New tokens: prepared, trained and evaluated as one token each, published so that stock PEFT loads them, tied or not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.artifacts import Resolved
from finetune_api.pods import JobConfig
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_api.v1alpha1.references import EarlierAdapter, SecretRef
from finetune_stage.outcome import Places
from finetune_storage import open_store
from finetune_trainer import new_tokens, prepare, recipe
from finetune_trainer.encode import encoder, stop_tokens
from finetune_trainer.previous import pinned
from json_lines import stored
from prepared_jobs import UID, colour_chats, colour_rows, job_store, stored_base, train_here
from tiny_models import tiny_tokenizer, write_tiny_llama

TOKENS = ["<tool>", "</tool>"]
ANSWER_TOKENS = 6
"""Of <tool>, red, </tool> and the end, at most."""


def tool_rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    rows = colour_rows(count, first)
    return [row | {"completion": f"<tool>{row['completion'].strip()}</tool>"} for row in rows]


def job(bucket: str, secret: Path, base: ResolvedBaseModel) -> JobConfig:
    store = open_store(bucket, secret)
    rows = {"train": tool_rows(24), "test": tool_rows(6, 200)}
    spec = {
        "baseModel": {"uri": base.uri},
        "dataset": {split: stored(store, f"rows/{split}.jsonl", each) for split, each in rows.items()},
        "adapter": {"type": "LoRA", "rank": 4, "alpha": 8, "dropout": 0, "newTokens": TOKENS},
        "training": {
            "maxSteps": 40, "batchSize": 8, "microBatchSize": 8, "learningRate": 2e-2, "precision": "Float32",
            "checkpointEverySteps": 40,
        },
        "evaluation": {"metrics": ["Loss", "ExactMatch"]},
        "output": {"uri": bucket, "secretRef": {"name": "s3"}},
    }  # fmt: skip
    return JobConfig(
        namespace="team-a",
        name="tools",
        uid=UID,
        spec=FineTuneJobSpec.model_validate(spec),
        base_model=base,
        image="trainer@sha256:0",
    )


@pytest.mark.parametrize(
    ("tied", "spare"), [pytest.param(True, 0, id="tied-resized"), pytest.param(False, 8, id="untied-spare-rows")]
)
def test_they_are_learned_and_load_back_with_their_tokenizer(
    bucket: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool, spare: int
) -> None:
    folder = write_tiny_llama(tmp_path / "base", tied=tied, spare=spare)
    base = stored_base(bucket, secret.parent, folder)
    config = job(bucket, secret, base)
    places = Places(secrets_dir=secret.parent, work_dir=tmp_path / "prepare", secret_wait=1)
    prepare.run(config, places)
    store = job_store(config, secret.parent)
    resolved = Resolved.model_validate_json(store.get("resolved.json"))
    assert resolved.evaluation.max_new_tokens is not None
    assert resolved.evaluation.max_new_tokens <= ANSWER_TOKENS, "prepare counts each as one token"

    published: list[Any] = []
    publish = recipe.publish
    monkeypatch.setattr(recipe, "publish", lambda model, *rest: published.append(model) or publish(model, *rest))
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.artifact.servable == "Merged"
    assert trained.evaluation is not None
    assert trained.evaluation.base is not None
    assert trained.evaluation.tuned["ExactMatch"] > 0.6
    assert trained.evaluation.base["ExactMatch"] == 0.0

    artifact = tmp_path / "work" / "artifact"
    model, tokenizer = loaded_back(folder, artifact)
    ids = tokenizer("blue thing 7\nColour:<tool>blue</tool>", return_tensors="pt").input_ids
    assert {320, 321} <= set(ids[0].tolist())
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, published[0](ids).logits, atol=1e-5, rtol=0)
    rows = {name: value.shape for name, value in load_file(artifact / "adapter_model.safetensors").items()}
    learned = {name: shape for name, shape in rows.items() if "lora_" not in name}
    assert list(learned.values()) == [(2, 32)] * (1 if tied else 2), "those rows of each layer, and no other weight"
    (tmp_path / "checkpoint").write_bytes(store.get("checkpoints/step-000040/adapter_model.safetensors"))
    assert load_file(tmp_path / "checkpoint").keys() == rows.keys()

    earlier = EarlierAdapter(uri=trained.artifact.uri, secret_ref=SecretRef(name="s3"))
    with pytest.raises(Failure, match="brings new tokens, and reads other ones than the base"):
        pinned(earlier, base, places)


def loaded_back(base: Path, artifact: Path) -> tuple[Any, Any]:
    """As anybody would, without this project."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(artifact)
    model = AutoModelForCausalLM.from_pretrained(base)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return PeftModel.from_pretrained(model, artifact).eval(), tokenizer


@pytest.mark.parametrize("text", ["<|im_end|>", "red"])
def test_what_is_one_token_of_the_base_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="which is one token of the base model already") as caught:
        new_tokens.add(tiny_tokenizer(), ["<tool>", text])
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_a_new_token_begins_as_the_mean_of_its_pieces_and_needs_an_output_layer_without_a_bias(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(write_tiny_llama(tmp_path / "base", tied=False))
    added = new_tokens.add(tiny_tokenizer(), ["<tool>"])
    new_tokens.make_room(model, added)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        torch.testing.assert_close(layer.weight[320], layer.weight[added[0].pieces].mean(0))
    model.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(321))
    with pytest.raises(Failure, match="output layer has a bias"):
        new_tokens.make_room(model, added)


def test_an_answer_does_not_end_with_a_new_token() -> None:
    tokenizer = tiny_tokenizer()
    new_tokens.add(tokenizer, TOKENS)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '.\n' }}{% endfor %}"
    row = colour_chats(1)[0]
    row["messages"][-1]["content"] = "<tool>red</tool> it is"
    reads = encoder(tokenizer, "Messages", answers_only=False, new_tokens=TOKENS)
    assert tokenizer.decode(reads.answer(row).input_ids).endswith("</tool> it is.\n<|endoftext|>")
    row["messages"][-1]["content"] = "<tool>"
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert stop_tokens(reads, row, None) == [tokenizer.eos_token_id]
