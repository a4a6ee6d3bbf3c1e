"""What the settings of an adapter do to a real model, and what is refused because it does not fit."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.reasons import Failure, Reason
from tiny_models import write_tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of two layers."""
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


def adapted(folder: Path, **settings: Any) -> Any:
    """A base with an adapter."""
    from transformers import AutoModelForCausalLM

    from finetune_trainer.adapter import add_adapter

    base = AutoModelForCausalLM.from_pretrained(folder)
    return add_adapter(base, ResolvedAdapterSpec(**{"type": "LoRA", "rank": 4, "alpha": 8, **settings}), seed=1)


def ranks(model: Any) -> dict[str, int]:
    """Of every adapted layer its rank."""
    return {
        name.removeprefix("base_model.model.model.").removesuffix(".lora_A.default"): module.out_features
        for name, module in model.named_modules()
        if name.endswith(".lora_A.default")
    }


def test_single_layers_can_have_ranks_and_scales_of_their_own(folder: Path) -> None:
    model = adapted(
        folder,
        target_modules=("q_proj", "v_proj"),
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 2},
        alpha_pattern={"v_proj": 16},
    )
    assert ranks(model) == {
        "layers.0.self_attn.q_proj": 4,
        "layers.0.self_attn.v_proj": 4,
        "layers.1.self_attn.q_proj": 2,
        "layers.1.self_attn.v_proj": 4,
    }
    layer = model.base_model.model.model.layers[0].self_attn
    assert (layer.q_proj.scaling["default"], layer.v_proj.scaling["default"]) == (2.0, 4.0)


def test_only_the_named_decoder_layers_are_adapted(folder: Path) -> None:
    found = ranks(adapted(folder, layers=(1,)))
    assert len(found) == 7
    assert all(name.startswith("layers.1.") for name in found)


def test_layers_that_are_called_convolutions_are_linear_too() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from finetune_trainer.adapter import add_adapter

    base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))
    adapter = ResolvedAdapterSpec(type="LoRA", rank=4, rank_pattern={"c_attn": 2}, layers=(1,))
    found = ranks(add_adapter(base, adapter, seed=1))
    assert {name.partition("transformer.")[2]: rank for name, rank in found.items()} == {
        "h.1.attn.c_attn": 2,
        "h.1.attn.c_proj": 4,
        "h.1.mlp.c_fc": 4,
        "h.1.mlp.c_proj": 4,
    }


def test_rs_lora_scales_by_the_root_of_the_rank(folder: Path) -> None:
    model = adapted(folder, type="RsLoRA")
    assert model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] == 8 / 4**0.5


def test_lora_plus_teaches_b_faster_than_a(folder: Path, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    from finetune_trainer.optimizer import lora_plus

    model = adapted(folder, type="LoraPlus")
    settings = TrainingArguments(str(tmp_path), learning_rate=1e-3, weight_decay=0.1, use_cpu=True, report_to="none")
    optimizer = lora_plus(Trainer(model=model, args=settings), 16.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(each)]: group["lr"] for group in optimizer.param_groups for each in group["params"]}
    assert len(rates) == sum(parameter.requires_grad for parameter in model.parameters())
    for name, rate in rates.items():
        assert rate == pytest.approx(1.6e-2 if "lora_B" in name else 1e-3), name
    assert {group["weight_decay"] for group in optimizer.param_groups if group["params"]} == {0.1}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"rank_pattern": {"query": 4}},
            "names 'query', which no linear layer of the base model ends with; there are down_proj",
        ),
        ({"alpha_pattern": {"(": 4}}, r"pattern '\(' is no regular expression"),
        ({"layers": (0, 2)}, "adapter.layers names 2, but the base model has layers 0 to 1"),
        ({"type": "IA3", "target_modules": ("query",)}, r"\['query'\] do not fit .* name some of them"),
        ({"target_modules": ("q_proj", "lm_head")}, r"names the output layer \(q_proj, lm_head\): .* leave it out"),
    ],
)
def test_what_does_not_fit_the_base_is_answered_with_what_does(folder: Path, settings: Any, says: str) -> None:
    with pytest.raises(Failure, match=says) as caught:
        adapted(folder, **settings)
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_virtual_tokens_are_counted(folder: Path) -> None:
    from finetune_trainer.adapter import virtual_tokens

    assert virtual_tokens(adapted(folder)) == 0
    assert virtual_tokens(adapted(folder, type="Prompt", virtual_tokens=5)) == 5


@pytest.mark.parametrize("type_", ["Prompt", "Prefix"])
def test_an_answer_after_virtual_tokens_is_the_same_in_any_batch(folder: Path, type_: str) -> None:
    """Rows of unlike length, scored together and generated from: padding must not stand between tokens and prompt."""
    from finetune_stage.rows import Row
    from finetune_trainer.encode import encoder
    from finetune_trainer.evaluate import Exam, score
    from finetune_trainer.machine import Numerics
    from finetune_trainer.tokenizer import load_tokenizer
    from prepared_jobs import colour_rows

    model = adapted(folder, type=type_, virtual_tokens=5)
    tokenizer = load_tokenizer(folder, "base")
    rows = [Row(str(i), row | {"prompt": "thing " * (i % 3) + row["prompt"]}) for i, row in enumerate(colour_rows(6))]

    def scores(some: list[Row]) -> list[tuple[float, bool | None]]:
        exam = Exam(
            encoder=encoder(tokenizer, "PromptCompletion", True),
            split="test",
            rows=some,
            metrics=frozenset(["Loss", "ExactMatch"]),
            labels=(),
            max_length=48,
            max_new_tokens=4,
            stop_tokens=[tokenizer.eos_token_id],
        )
        return [(each.nll, each.exact) for each in score(model, exam, Numerics("cpu", bf16=False))]

    together, alone = scores(rows), [each for row in rows for each in scores([row])]
    assert [nll for nll, _ in together] == pytest.approx([nll for nll, _ in alone], abs=1e-4)
    assert [exact for _, exact in together] == [exact for _, exact in alone]


def test_ia3_scales_what_comes_into_the_end_of_a_feed_forward_block(tmp_path: Path) -> None:
    """Also of an architecture that PEFT does not list: it scales other layers' outputs."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as LISTED
    from transformers import Olmo2Config, Olmo2ForCausalLM

    from finetune_trainer.adapter import add_adapter

    def scaled(inner: int, *names: str) -> dict[str, bool]:
        sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        base = Olmo2ForCausalLM(Olmo2Config(**sizes, intermediate_size=inner))
        assert base.config.model_type not in LISTED
        model = add_adapter(base, ResolvedAdapterSpec(type="IA3", target_modules=names), seed=1)
        layers = {name: module for name, module in model.named_modules() if hasattr(module, "is_feedforward")}
        return {name.rpartition(".")[2]: layer.is_feedforward for name, layer in layers.items()}

    names = ("q_proj", "o_proj", "up_proj", "down_proj")
    assert scaled(48, *names) == {"q_proj": False, "o_proj": False, "up_proj": False, "down_proj": True}
    assert scaled(32, "q_proj", "o_proj") == {"q_proj": False, "o_proj": False}
    with pytest.raises(Failure, match="'up_proj', and the sizes of those layers do not tell") as caught:
        scaled(32, "up_proj")
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_layers_whose_weights_are_not_found_are_not_left_to_learn(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from finetune_trainer.adapter import add_adapter

    base = AutoModelForCausalLM.from_pretrained(folder)
    base.model.stages = base.model.layers
    del base.model.layers
    with pytest.raises(
        Failure, match="frozenLayers is 1, and no weights of the base model are named as those of layer 0"
    ):
        add_adapter(base, ResolvedAdapterSpec(type="Full", frozen_layers=1), seed=1)
