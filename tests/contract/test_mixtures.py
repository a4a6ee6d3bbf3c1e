"""Low-rank adapters on bases that are not made of linear layers alone: mixtures of experts, and state spaces."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.reasons import Failure
from finetune_api.v1alpha1.adapter import AdapterSpec
from finetune_trainer.adapter import add_adapter
from finetune_trainer.choices import Choices
from finetune_trainer.plan_adapter import resolved_adapter
from finetune_trainer.targets import linear_layers
from prepared_jobs import ROWS, prepare_job, train_here, training
from published_models import loaded, published, scores
from tiny_models import tiny_tokenizer

SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2}


def mixture() -> Any:
    """A Qwen3 of four experts a layer."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **experts, **heads, eos_token_id=0, pad_token_id=3))


def adapted(model: Any) -> set[str]:
    """Names of what has an adapter."""
    return {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_A" in name}


def test_experts_learn_and_the_files_alone_give_the_same_answers(bucket: str, secret: Path, tmp_path: Path) -> None:
    base = mixture()
    adapter = resolved_adapter(AdapterSpec(type="LoRA", rank=4), Choices(), linear=linear_layers(base.config))
    assert (adapter.dropout, adapter.experts) == (0.0, True)
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    config = prepare_job(bucket, secret.parent, ROWS, adapter=adapter, settings=training(), base=tmp_path / "base")
    trained = train_here(config, secret.parent, tmp_path / "work")
    assert trained.artifact.servable == "Merged"
    assert trained.evaluation is not None
    assert trained.evaluation.tuned["Loss"] < (trained.evaluation.base or {})["Loss"]
    model, tokenizer = loaded(config, secret, tmp_path, tmp_path / "base")
    assert adapted(model) >= {"experts", "gate", "q_proj"}
    found = [each.nll for each in scores(model, tokenizer, ROWS["test"], config, secret)]
    assert found == pytest.approx([each.nll for each in published(config, secret).tuned], abs=1e-4)


def test_what_all_linear_is_depends_on_the_architecture() -> None:
    from transformers import CONFIG_MAPPING

    names = ("llama", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoe", "mamba2")
    found = {name: linear_layers(CONFIG_MAPPING[name]()) for name in names}
    assert {name: sorted(each.experts) for name, each in found.items() if each.experts} == {
        "mixtral": ["gate", "w1", "w2", "w3"],
        "qwen3_moe": ["down_proj", "gate", "gate_proj", "up_proj"],
        "deepseek_v3": ["down_proj", "gate", "gate_proj", "up_proj"],
    }
    whys = {name: each.why.split(",")[0] for name, each in found.items()}
    assert whys == {
        "llama": "better than attention alone",
        **dict.fromkeys(["mixtral", "qwen3_moe", "deepseek_v3"], "attention"),
        **dict.fromkeys(["gpt_oss", "granitemoe"], "all but the experts of the mixture"),
        "mamba2": "all but out_proj",
    }


def test_state_spaces_are_adapted_where_their_kernels_let_them_be() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    base = MambaForCausalLM(MambaConfig(**SIZES, state_size=8))
    model = add_adapter(base, ResolvedAdapterSpec(type="LoRA"), seed=1)
    assert adapted(model) == {"in_proj", "x_proj", "dt_proj"}


def test_all_linear_is_not_advised_to_who_has_said_it() -> None:
    says = r"\['all-linear'\] do not fit .* linear layers are k_proj, o_proj, q_proj, v_proj, name some of them"
    with pytest.raises(Failure, match=says):
        add_adapter(mixture(), ResolvedAdapterSpec(type="LoRA", dropout=0.05), seed=1)
