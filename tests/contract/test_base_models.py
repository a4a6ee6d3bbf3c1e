"""What base models bring along that is not weights, and what becomes of it."""

import json
from pathlib import Path

import pytest

from finetune_trainer.base_model import positions_of
from finetune_trainer.head import nf4
from prepared_jobs import FULL, ROWS, prepare_job, train_here, training
from published_models import fetched, published
from tiny_models import write_tiny_llama


def test_settings_of_sampling_that_do_nothing_do_not_hinder_publishing(
    bucket: str, secret: Path, tmp_path: Path
) -> None:
    """transformers reads such a file, and refuses to write it once its end tokens are others."""
    base = write_tiny_llama(tmp_path / "base")
    idle = {"temperature": 0.9, "top_p": 0.6, "top_k": 20, "length_penalty": 0.8, "early_stopping": True}
    kept = {"eos_token_id": 0, "max_length": 200, "repetition_penalty": 1.1}
    (base / "generation_config.json").write_text(json.dumps(kept | idle))
    config = prepare_job(bucket, secret.parent, ROWS, adapter=FULL, settings=training(steps=1), base=base)
    train_here(config, secret.parent, tmp_path / "work")
    stated = json.loads((fetched(config, secret, tmp_path / "model", "model") / "generation_config.json").read_bytes())
    assert {name: stated[name] for name in kept} == kept | {"eos_token_id": [0]}
    assert not set(idle) & set(stated)


@pytest.mark.parametrize(
    ("architecture", "longest"),
    [("bert", 34), ("esm", 32), ("longformer", 32), ("mpnet", 32), ("roberta", 32), ("xlm-roberta", 32)],
)
def test_a_text_as_long_as_a_base_has_positions_is_read_and_no_longer_one(architecture: str, longest: int) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = CONFIG_MAPPING[architecture](
        **sizes, num_attention_heads=4, max_position_embeddings=34, pad_token_id=1, attention_window=8
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert positions_of(config) == longest
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


def test_an_architecture_without_a_limit_has_none() -> None:
    from transformers import MambaConfig, XLNetConfig

    assert [positions_of(config) for config in (MambaConfig(), XLNetConfig())] == [None, None]


def test_a_base_stored_in_less_than_float32_is_compared_with_in_the_same_arithmetic(
    bucket: str, secret: Path, tmp_path: Path
) -> None:
    """A warm-up's first step changes nothing: what is stored is the base, and what is said of it is the same."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = write_tiny_llama(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16").save_pretrained(base)
    config = prepare_job(bucket, secret.parent, ROWS, adapter=FULL, settings=training(steps=1), base=base)
    train_here(config, secret.parent, tmp_path / "work")
    file = published(config, secret)
    assert file.tuned == file.base
    stored = load_file(fetched(config, secret, tmp_path / "model", "model") / "model.safetensors")
    before = load_file(base / "model.safetensors")
    assert stored.keys() == before.keys()
    assert all(stored[name].dtype == each.dtype and stored[name].equal(each) for name, each in before.items())


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bart", {"classification_head.dense", "classification_head.out_proj"}),
        ("bert", {"bert.pooler.dense", "classifier"}),
        ("llama", {"score"}),
        ("xlnet", {"sequence_summary.summary", "logits_proj"}),
    ],
)
def test_a_new_head_is_not_held_in_4_bits(tmp_path: Path, architecture: str, head: set[str]) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForSequenceClassification

    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "d_head": 16}
    ends = {"encoder_layers": 1, "decoder_layers": 1} if architecture == "bart" else {}
    config = CONFIG_MAPPING[architecture](**sizes, **ends, num_attention_heads=4)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, quantization_config=nf4(torch.float32, config))
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name for name, module in linear.items() if not isinstance(module, Linear4bit)} == head
