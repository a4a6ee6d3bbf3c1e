"""The mark ``servable`` of an artifact against vLLM's own check of the adapter, on files the trainer writes.

vLLM is 130 MB, and no part of the development environment: `make vllm` puts it beside (requirements/vllm.in).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import beside
from finetune_api.artifacts import ResolvedAdapterSpec
from finetune_api.matrix import ADAPTERS
from finetune_api.servable import HIGHEST_RANK, servable
from finetune_api.v1alpha1.adapter import AdapterType
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]
VLLM = beside.folder_of("vllm")
LOW: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0}
VIRTUAL: dict[str, Any] = {"virtual_tokens": 4}
SETTINGS: dict[AdapterType, dict[str, Any]] = {
    **dict.fromkeys(("LoRA", "QLoRA", "DoRA", "QDoRA", "RsLoRA", "LoraPlus"), LOW),
    **dict.fromkeys(("Prefix", "Prompt"), VIRTUAL),
    "IA3": {"target_modules": ()},
}
CASES: dict[str, ResolvedAdapterSpec] = {
    **{type_: ResolvedAdapterSpec(type=type_, **SETTINGS[type_]) for type_ in ADAPTERS if type_ != "Full"},
    "highest rank": ResolvedAdapterSpec(type="LoRA", rank=HIGHEST_RANK),
    "rank above it": ResolvedAdapterSpec(type="LoRA", rank=HIGHEST_RANK + 1),
    "one layer above it": ResolvedAdapterSpec(type="LoRA", rank=4, rank_pattern={"q_proj": HIGHEST_RANK + 1}),
    "new tokens": ResolvedAdapterSpec(type="LoRA", rank=4, new_tokens=("<tool>",)),
    "scales and layers": ResolvedAdapterSpec(type="LoRA", rank=4, alpha_pattern={"q_proj": 64}, layers=(0,)),
}

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(not (VLLM / "complete").exists(), reason="vLLM is not there: make vllm downloads it (130 MB)"),
]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Per case why vLLM refuses its adapter; all are asked about at once, as importing vLLM takes ten seconds."""
    folders = {name: tmp_path_factory.mktemp("artifact") for name in CASES}
    base = write_tiny_llama(tmp_path_factory.mktemp("base"), hidden_size=64)
    for name, folder in folders.items():
        store_adapter(base, CASES[name], folder)
    paths = os.pathsep.join([str(VLLM), str(ROOT / "tests")])
    command = [sys.executable, str(ROOT / "tests" / "vllm_check.py"), *map(str, folders.values())]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths, "VLLM_LOGGING_LEVEL": "ERROR"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return {name: said[str(folder)] for name, folder in folders.items()}


def store_adapter(base: Path, spec: ResolvedAdapterSpec, folder: Path) -> None:
    """An adapter as the trainer makes and publishes it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from finetune_trainer import new_tokens
    from finetune_trainer.adapter import Fresh, add_adapter
    from finetune_trainer.publish import save_adapter

    model = AutoModelForCausalLM.from_pretrained(base)
    added = new_tokens.add(AutoTokenizer.from_pretrained(base), spec.new_tokens)
    new_tokens.make_room(model, added)
    model = add_adapter(model, spec, seed=1, fresh=Fresh(rows=tuple(token.row for token in added)))
    save_adapter(model, ResolvedBaseModel(uri="s3://models/base"), [2], folder)


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_is_marked_as_vllm_says(name: str, complaints: dict[str, str | None]) -> None:
    spec = CASES[name]
    highest = max((spec.rank, *spec.rank_pattern.values()))
    how, why = servable("sft", spec.type, highest, new_tokens=bool(spec.new_tokens))
    assert (complaints[name] is None) == (how == "Adapter"), (complaints[name], why)
