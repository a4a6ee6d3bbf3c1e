"""What vLLM itself says of adapters: run as a program where vLLM can be imported, by tests/contract/test_vllm_check.py.

    python tests/vllm_check.py FOLDER …

Prints a JSON object: per folder, why vLLM would not load the adapter in it; null where it would.
"""

import json
import sys

from vllm.config.lora import LoRAConfig  # type: ignore[import-not-found]
from vllm.lora.peft_helper import PEFTHelper  # type: ignore[import-not-found]

HIGHEST = LoRAConfig(max_lora_rank=512)
"""The most that a server can be started with."""


def complaint(folder: str) -> str | None:
    """As when an adapter is loaded into a running server (vllm.lora.worker_manager)."""
    try:
        PEFTHelper.from_local_dir(folder, max_position_embeddings=None).validate_legal(HIGHEST)
    except ValueError as error:
        return str(error)
    return None


if __name__ == "__main__":
    print(json.dumps({folder: complaint(folder) for folder in sys.argv[1:]}))
