"""What vLLM itself says of adapters: run as a program where vLLM can be imported, by tests/contract/test_vllm_check.py.

    python tests/vllm_check.py FOLDER …

Prints a JSON object: per folder, why vLLM would not load the adapter in it; null where it would.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

import vllm  # type: ignore[import-not-found]
from safetensors import safe_open
from vllm.config.lora import LoRAConfig  # type: ignore[import-not-found]
from vllm.lora.peft_helper import PEFTHelper  # type: ignore[import-not-found]

HIGHEST = LoRAConfig(max_lora_rank=512)
"""The most that a server can be started with."""
READING = ("parse_fine_tuned_lora_name", "is_base_embedding_weights")
"""Of vllm.lora.utils: what becomes of the name of each tensor when an adapter is read (LoRAModel.from_local_checkpoint)."""


def reading() -> dict[str, Any]:
    """Those functions, without their module, which imports all of vLLM's layers and what they need."""
    source = ast.parse((Path(vllm.__file__).parent / "lora" / "utils.py").read_text())
    found = [each for each in source.body if isinstance(each, ast.FunctionDef) and each.name in READING]
    scope: dict[str, Any] = {}
    exec(compile(ast.Module(found, []), "vllm.lora.utils", "exec"), scope)
    return scope


def complaint(folder: str, scope: dict[str, Any]) -> str | None:
    """As when an adapter is loaded into a running server (vllm.lora.worker_manager)."""
    try:
        PEFTHelper.from_local_dir(folder, max_position_embeddings=None).validate_legal(HIGHEST)
        with safe_open(Path(folder) / "adapter_model.safetensors", framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if not scope["is_base_embedding_weights"](name):
                    scope["parse_fine_tuned_lora_name"](name)
    except ValueError as error:
        return str(error)
    return None


if __name__ == "__main__":
    functions = reading()
    print(json.dumps({folder: complaint(folder, functions) for folder in sys.argv[1:]}))
