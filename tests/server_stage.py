"""The model server as it is, over a tiny random base and adapters whose answers differ; and what each must answer.

What must be answered is computed by a fresh PEFT model with that adapter alone, one prompt at a time.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import torch
from openai import OpenAI
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ports import free_port
from tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[1]
START_SECONDS = 180
"""Importing torch, transformers and PEFT takes most of it on a busy machine."""
ADAPTERS: dict[str, dict[str, Any]] = {
    "red": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "green": {"r": 8, "target_modules": "all-linear", "use_rslora": True},
    "blue": {"r": 2, "rank_pattern": {"o_proj": 6}, "target_modules": ["o_proj", "down_proj"], "use_dora": True},
}


@dataclass
class Models:
    """Folders of the base and of one adapter per name, and the right answers."""

    base: Path
    adapters: Path

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.base)

    @cached_property
    def _fresh(self) -> dict[str, Any]:
        return {name: self.fresh(name) for name in ("base", *ADAPTERS)}

    def fresh(self, name: str, dtype: torch.dtype = torch.float32) -> Any:
        """The base, or the base with this adapter alone."""
        base = AutoModelForCausalLM.from_pretrained(self.base, dtype=dtype).eval()
        return base if name == "base" else PeftModel.from_pretrained(base, self.adapters / name).eval()

    @torch.inference_mode()
    def greedy(self, name: str, prompt: str, max_tokens: int) -> str:
        """The answer to a prompt."""
        ids = torch.tensor([self.tokenizer(prompt, add_special_tokens=False).input_ids])
        made = self._fresh[name].generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
        )
        return str(self.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))

    def greedy_chat(self, name: str, messages: list[dict[str, str]], max_tokens: int) -> str:
        """The answer to a conversation."""
        prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.greedy(name, prompt, max_tokens)

    @torch.inference_mode()
    def logprobs(self, name: str, text: str) -> torch.Tensor:
        """Row i: log-probabilities of what follows token i."""
        ids = torch.tensor([self.tokenizer(text).input_ids])
        logits: torch.Tensor = self._fresh[name](ids).logits[0]
        return logits.log_softmax(-1)


def make_models(folder: Path) -> Models:
    """Write base and adapters; large random weights, so that no two answer alike."""
    models = Models(write_tiny_llama(folder / "base"), folder / "adapters")
    for seed, (name, settings) in enumerate(ADAPTERS.items(), 1):
        write_adapter(models.base, models.adapters / name, seed, **settings)
    return models


def write_adapter(base: Path, folder: Path, seed: int, **settings: Any) -> Path:
    """A LoRA with random weights."""
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(lora_alpha=16, **settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Change an adapter's settings behind PEFT's back."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def load(client: OpenAI, name: str, path: Path | str) -> str:
    """Load an adapter as the gateway does."""
    return client.post("/load_lora_adapter", body={"lora_name": name, "lora_path": str(path)}, cast_to=str)


def unload(client: OpenAI, name: str) -> str:
    """Unload an adapter as the gateway does."""
    return client.post("/unload_lora_adapter", body={"lora_name": name}, cast_to=str)


@dataclass
class ServerProcess:
    """A server that answers."""

    url: str
    process: "subprocess.Popen[str]"


def start(*flags: str) -> "subprocess.Popen[str]":
    """The server as its image starts it; stderr is kept for the test."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "trainer_image"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "finetune_server", "--threads", "1", *flags],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running_server(models: Models, *flags: str) -> Iterator[ServerProcess]:
    """Start, wait for /health, stop at the end."""
    port = free_port()
    process = start("--model", str(models.base), "--adapter-root", str(models.adapters), "--port", str(port), *flags)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process)
        yield ServerProcess(url, process)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def wait_until_healthy(url: str, process: "subprocess.Popen[str]") -> None:
    """Before the model answers /health is 503; a process that ends is an error."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr
            raise AssertionError(f"the server ended with {process.returncode}: {process.stderr.read()}")
        try:
            if urlopen(f"{url}/health").status == 200:
                return
        except URLError:  # not listening yet, or 503
            time.sleep(0.2)
    raise AssertionError(f"the server did not answer within {START_SECONDS} s")
