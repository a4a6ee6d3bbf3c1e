"""Refuse a model folder that would run code or read pickles, before any library sees it. Called by ``__main__``."""

import json
from pathlib import Path

from finetune_server.protocol import ModelRefused


def check_folder(folder: Path) -> None:
    """Refuse what would run code or read pickles, before any library sees it. Raises ModelRefused."""
    if not (folder / "config.json").is_file():
        raise ModelRefused(f"{folder} has no config.json: it is not a model in Hugging Face format")
    if (folder / "adapter_config.json").exists():
        raise ModelRefused(f"{folder} holds an adapter; --model takes a base model, adapters are loaded over HTTP")
    code = sorted(path.name for path in folder.rglob("*.py"))
    if code:
        raise ModelRefused(f"{folder} brings code ({', '.join(code)}), which this server never runs")
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        try:
            settings = json.loads(file.read_bytes()) if file.exists() else {}
        except ValueError as error:
            raise ModelRefused(f"{file} is not JSON: {error}") from error
        if "auto_map" in settings:
            raise ModelRefused(f"{file} has auto_map: the model needs code of its own, which this server never runs")
    if not any(folder.glob("*.safetensors")):
        raise ModelRefused(f"{folder} has no *.safetensors; other weight formats can run code and are not read")
