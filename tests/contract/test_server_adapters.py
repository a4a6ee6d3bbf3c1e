"""Adapters the model server refuses, each for its reason; and that a refused one leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from safetensors.torch import load_file, save_file

from finetune_server.adapters import AdapterRefused, read_adapter, read_stop_tokens
from finetune_server.model import load_model
from server_stage import ADAPTERS, Models, edit_config, load, make_models, running_server, unload, write_adapter


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def client(models: Models) -> Iterator[OpenAI]:
    with running_server(models, "--max-lora-rank", "16", "--max-adapters", "2") as server:
        client = OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        load(client, "red", models.adapters / "red")
        yield client


def broken(models: Models, folder: Path, **settings: Any) -> Path:
    return write_adapter(models.base, folder, 7, **{"r": 4, "target_modules": ["q_proj"], **settings})


def spoil(folder: Path, suffix: str, **changes: Any) -> None:
    """Replace one tensor by one of another shape or value."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(suffix))
    tensors[name] = torch.full(changes.get("shape", tensors[name].shape), changes.get("value", 0.0))
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("settings", "edits", "spoiled", "words"),
    [
        pytest.param({"r": 17}, {}, None, "rank 17, above --max-lora-rank 16", id="rank"),
        pytest.param({"rank_pattern": {"q_proj": 32}}, {}, None, "rank 32, above", id="rank_pattern"),
        pytest.param({}, {"peft_type": "IA3"}, None, "peft_type IA3; this server serves LORA", id="type"),
        pytest.param(
            {}, {"target_modules": ["q_proj", "c_attn"]}, None, "c_attn are not in the base model", id="modules"
        ),
        pytest.param(
            {}, {"init_lora_weights": "pissa"}, None, "init_lora_weights 'pissa', which changes the base", id="init"
        ),
        pytest.param({}, {"bias": "all"}, None, 'has bias="all", which this server does not serve', id="bias"),
        pytest.param({"modules_to_save": ["lm_head"]}, {}, None, "modules_to_save", id="modules_to_save"),
        pytest.param(
            {"trainable_token_indices": [5]}, {}, None, "trainable_token_indices", id="rows of the vocabulary"
        ),
        pytest.param({}, {"from_the_future": 1}, None, "from_the_future=1", id="unknown setting"),
        pytest.param(
            {}, {"target_modules": "no.*thing"}, None, "does not fit the base model", id="a pattern of nothing"
        ),
        pytest.param({}, {"r": 5}, None, "does not fit the base model", id="another rank than its weights"),
        pytest.param(
            {}, {"target_modules": ["q_proj", "k_proj"]}, None, "missing", id="weights of a module are missing"
        ),
        pytest.param(
            {}, {}, {"suffix": "lora_A.weight", "shape": (4, 64)}, "q_proj has input size 32", id="input size"
        ),
        pytest.param(
            {}, {}, {"suffix": "lora_B.weight", "shape": (64, 4)}, "q_proj has output size 32", id="output size"
        ),
        pytest.param({}, {}, {"suffix": "lora_B.weight", "value": torch.nan}, "not finite", id="not a number"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused(
    models: Models, client: OpenAI, request: pytest.FixtureRequest, settings: Any, edits: Any, spoiled: Any, words: str
) -> None:
    folder = broken(models, models.adapters / f"broken-{request.node.callspec.id}", **settings)
    edit_config(folder, **edits)
    if spoiled:
        spoil(folder, **spoiled)
    with pytest.raises(openai.BadRequestError) as refused:
        load(client, "broken", folder)
    assert words in refused.value.body["message"]  # type: ignore[index]
    answer = client.completions.create(model="red", prompt="red", temperature=0, max_tokens=8)
    assert answer.choices[0].text == models.greedy("red", "red", 8), "nothing of it stays in the model"


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"eos_token_id": "no"}', "a token id or a list")],
)
def test_stop_tokens_that_cannot_be_read_are_refused(models: Models, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(AdapterRefused, match=words):
        read_stop_tokens(tmp_path)


def test_an_adapter_folder_must_be_there_and_below_the_root(models: Models, client: OpenAI, tmp_path: Path) -> None:
    outside = broken(models, tmp_path / "outside")
    (models.adapters / "link").symlink_to(outside)
    for path in (outside, models.adapters / "link", "../base"):
        with pytest.raises(openai.BadRequestError, match="leads out of --adapter-root"):
            load(client, "x", path)
    with pytest.raises(openai.NotFoundError, match="no such folder"):
        load(client, "x", "nowhere")
    (models.adapters / "empty").mkdir()
    with pytest.raises(openai.BadRequestError, match=r"adapter_config\.json in .* cannot be read"):
        load(client, "x", "empty")
    pickled = broken(models, models.adapters / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(openai.BadRequestError, match="only safetensors are read"):
        load(client, "x", "pickled")


@pytest.mark.parametrize("name", ["red", "base"])
def test_a_name_in_use_is_refused_as_in_vllm(client: OpenAI, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        load(client, name, "red")
    error: Any = refused.value.body
    assert (error["type"], error["code"]) == ("InvalidUserInput", 400)
    assert error["message"] == f"The lora adapter '{name}' has already been loaded."


def test_unloading_what_is_not_there_is_404_as_in_vllm(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'nobody' cannot be found"):
        unload(client, "nobody")


def test_no_more_adapters_than_allowed(models: Models, client: OpenAI) -> None:
    load(client, "second", "green")
    with pytest.raises(
        openai.InternalServerError, match="2 adapters are loaded, as many as --max-adapters allows"
    ) as full:
        load(client, "third", "blue")
    assert full.value.status_code == 503, "it may be tried again"
    unload(client, "second")


def test_a_first_adapter_that_does_not_fit_leaves_the_model_as_it_was(models: Models) -> None:
    model = load_model(models.base, dtype="auto", max_model_len=None, threads=1)
    folder = write_adapter(models.base, models.adapters / "pattern", 7, r=4, target_modules=["q_proj"])
    edit_config(folder, target_modules="no.*thing")
    with pytest.raises(AdapterRefused, match="does not fit the base model"):
        model.add_adapter("a", read_adapter(folder, model.modules, 16))
    model.add_adapter("b", read_adapter(models.adapters / "red", model.modules, 16))
    model.activate("b")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model.model(ids).logits, models.fresh("red")(ids).logits)
    model.remove_adapter("b")
    assert torch.equal(model.model(ids).logits, models.fresh("base")(ids).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_compute_as_peft_does_to_the_bit(models: Models, dtype: str) -> None:
    model = load_model(models.base, dtype=dtype, max_model_len=None, threads=1)
    for name in ADAPTERS:
        model.add_adapter(name, read_adapter(models.adapters / name, model.modules, 16))
    ids = torch.tensor([[1, 2, 3]])
    for name in ("base", *ADAPTERS, "base"):
        model.activate(None if name == "base" else name)
        assert torch.equal(model.model(ids).logits, models.fresh(name, getattr(torch, dtype))(ids).logits)
