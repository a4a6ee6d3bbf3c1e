"""The base model and the adapters in it. Only the model thread calls it after loading.

Adapters are put in with ``peft.functional`` and the base's own forward is called: ``PeftModel.forward`` registers hooks for
each call, and hooks that survive an exception make the next request answer with another adapter.
"""

import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import functional as peft
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers

from finetune_server.adapters import Adapter, AdapterRefused
from finetune_server.generation import Decoder
from finetune_server.protocol import ModelRefused

log = logging.getLogger(__name__)

SERVED_LAYERS = {"full_attention", "sliding_attention"}
"""Layer types whose past is a key/value cache that can be padded and merged."""


@dataclass
class LoadedModel:
    """Weights, tokenizer and what requests are checked against."""

    model: Any
    decoder: Decoder
    max_model_len: int
    modules: dict[str, tuple[int, int]]
    """Modules of the base that a LoRA can sit on, with their input and output sizes."""
    _layers: list[Any] = field(default_factory=list)
    _active: str | None = None
    _hooks: list[tuple[dict[int, Any], dict[int, Any]]] = field(default_factory=list)

    @property
    def vocabulary(self) -> int:
        """Token ids are below it."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def add_adapter(self, key: str, adapter: Adapter) -> None:
        """Put a checked adapter in. Raises AdapterRefused and leaves nothing behind where it does not fit."""
        try:
            peft.inject_adapter_in_model(adapter.config, self.model, key)
            # Before the weights are copied in: PEFT makes room for them in the base's dtype, which would round them.
            peft.cast_adapter_dtype(self.model, key)
            result = peft.set_peft_model_state_dict(self.model, adapter.tensors, key)
            missing = [name for name in result.missing_keys if f".{key}." in f"{name}."]
            if missing or result.unexpected_keys:
                raise AdapterRefused(
                    f"configuration and weights disagree: missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}"
                )
        except Exception as error:
            self.remove_adapter(key)
            if isinstance(error, AdapterRefused):
                raise
            raise AdapterRefused(f"the adapter does not fit the base model: {error}") from error
        self._refresh()

    def remove_adapter(self, key: str) -> None:
        """Free an adapter's memory."""
        self.activate(None)
        peft.delete_adapter(self.model, key, prefix="lora_")
        self.model.peft_config.pop(key, None)
        self._refresh()

    def activate(self, key: str | None) -> None:
        """Make the next forward that of an adapter, or of the base. Raises KeyError where there is no such adapter."""
        if key == self._active:
            return
        if key is not None and key not in self.model.peft_config:
            raise KeyError(key)  # layers would answer as the base does
        for layer in self._layers:
            # PEFT's set_adapter also visits every other adapter of every layer, at each switch.
            layer._active_adapter = [key] if key else []
            layer._disable_adapters = key is None
        self._active = key

    def restore(self) -> None:
        """Undo what a failed step may have left: hooks, and which adapter is active."""
        for module, (before, after) in zip(self.model.modules(), self._hooks, strict=True):
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks.update(before)
            module._forward_hooks.clear()
            module._forward_hooks.update(after)
        self._refresh()

    def _refresh(self) -> None:
        """Note the model's modules as they are, with the base active."""
        modules = list(self.model.modules())
        self._layers = [module for module in modules if isinstance(module, BaseTunerLayer)]
        self._hooks = [(dict(module._forward_pre_hooks), dict(module._forward_hooks)) for module in modules]
        self._active = "unknown"
        self.activate(None)


def load_model(folder: Path, *, dtype: str, max_model_len: int | None, threads: int | None) -> LoadedModel:
    """Load a base model from a local folder; the thread that calls it sets its own number of compute threads."""
    transformers.disable_progress_bar()
    warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)  # many adapters are the purpose
    if threads:
        torch.set_num_threads(threads)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text_config = config.get_text_config()
    length = context_length(text_config, max_model_len)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch_dtype(dtype, text_config),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    check_loaded(model, text_config, info)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer("")  # a first call may change settings, which must not happen while another thread decodes
    ends = model.generation_config.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    decoder = Decoder(tokenizer, frozenset(ends))
    model.peft_config = {}  # PEFT adds each adapter's settings
    loaded = LoadedModel(model.eval().requires_grad_(False), decoder, length, module_sizes(model))
    loaded._refresh()
    log.info("loaded %s: %s, %s, context %d", folder, type(model).__name__, model.dtype, length)
    return loaded


def check_loaded(model: Any, config: Any, info: dict[str, Any]) -> None:
    """Weights that are all there, and layers this server can batch. Raises ModelRefused."""
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise ModelRefused(f"the safetensors lack weights of the model: {', '.join(absent[:5])}")
    others = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if model._is_stateful or others:
        raise ModelRefused(
            f"{type(model).__name__} keeps state other than keys and values ({', '.join(sorted(others)) or 'recurrent'}); "
            f"served are {', '.join(sorted(SERVED_LAYERS))}"
        )


def context_length(config: Any, asked: int | None) -> int:
    """The smaller of what the model can and what was asked for. Raises ModelRefused on asking for more."""
    can = getattr(config, "max_position_embeddings", None)
    length = asked or can
    if length is None:
        raise ModelRefused("the model's config has no max_position_embeddings; pass --max-model-len")
    if can is not None and length > can:
        raise ModelRefused(f"--max-model-len {length} is above the model's max_position_embeddings {can}")
    return int(length)


def torch_dtype(name: str, config: Any) -> torch.dtype:
    """The dtype to compute in; auto is the one the weights were saved in."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    # Half precision has no fast path on CPUs and overflows where bfloat16 does not.
    return torch.bfloat16 if config.dtype is torch.bfloat16 else torch.float32


def module_sizes(model: Any) -> dict[str, tuple[int, int]]:
    """Input and output size of each module a LoRA can sit on."""
    sizes: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            sizes[name] = (module.in_features, module.out_features)
        elif isinstance(module, torch.nn.Embedding):
            sizes[name] = (module.num_embeddings, module.embedding_dim)
        elif isinstance(module, Conv1D):
            sizes[name] = (int(module.weight.shape[0]), int(module.weight.shape[1]))
    return sizes
