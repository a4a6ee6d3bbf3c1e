"""The base model: load or build it; as a whole model, settle it. Adapters are :mod:`finetune_trainer.adapter`'s."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from finetune_api.artifacts import TOKENIZER, Resolved, ResolvedAdapterSpec
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.base_model import FromConfig
from finetune_storage import fetch_model
from finetune_trainer import new_tokens
from finetune_trainer.head import (
    QUANTISED,
    Head,
    fit_padding,
    head_of,
    is_of_the_head,
    keep_quantised_weights_in_place,
    nf4,
)
from finetune_trainer.inputs import Inputs
from finetune_trainer.kernels import fuse
from finetune_trainer.machine import Numerics
from finetune_trainer.tokenizer import DEFAULT_POSITIONS, load_tokenizer
from finetune_trainer.world import World

DEFAULT_INITIALIZER_RANGE = 0.02


class Base(NamedTuple):
    """A base model on its device."""

    model: Any
    tokenizer: Any
    stored_dtype: torch.dtype
    """Of its weights as stored: those of a Full model are rounded to it before they are evaluated, and published in it."""
    fresh: tuple[str, ...] = ()
    """Names of the modules that are random, as a new head: they learn and are stored with any adapter."""
    new_rows: tuple[int, ...] = ()
    """Of the vocabulary, for the tokens the job adds; they learn too."""

    @property
    def writes(self) -> bool:
        """Whether it answers; a head scores texts, and answers nothing."""
        return bool(self.model.can_generate())


def fetch_base(inputs: Inputs, world: World) -> Path:
    """Where the base model's files are; empty for one that is made from random weights."""
    ref, places = inputs.resolved.base_model, inputs.places
    folder = world.shared(inputs.work) / "base"
    if world.leads_its_node and inputs.resolved.from_config is None:
        fetch_model(ref, folder, places.secret(ref.secret_ref), secret_wait=places.secret_wait)
    world.wait()
    return folder


def load_base(inputs: Inputs, folder: Path, numerics: Numerics) -> Base:
    """The base model of :func:`fetch_base`, or one of random weights; the same one every time."""
    disable_progress_bar()
    resolved = inputs.resolved
    if resolved.from_config is not None:
        tokenizer = load_tokenizer(inputs.work / TOKENIZER, inputs.store.uri(TOKENIZER))
        model = _from_config(resolved.from_config, tokenizer, resolved.training.seed)
        return Base(_with_kernels(model.to(numerics.device), resolved), tokenizer, torch.float32)
    uri = str(resolved.base_model.uri)
    tokenizer = load_tokenizer(folder, uri)
    added = new_tokens.add(tokenizer, resolved.adapter.new_tokens)
    with naming(uri):
        stored = AutoConfig.from_pretrained(folder, local_files_only=True).dtype or torch.float32
        head = head_of(resolved)
        torch.manual_seed(resolved.training.seed)  # a new head is random, in every attempt alike
        model, fresh = _from_folder(folder, resolved.adapter, numerics, head)
    if model.can_generate():
        _drop_idle_settings(model.generation_config)
    if head:
        fit_padding(model, tokenizer)
    new_tokens.make_room(model, added)
    return Base(_with_kernels(model, resolved), tokenizer, stored, fresh, tuple(token.row for token in added))


def _with_kernels(model: Any, resolved: Resolved) -> Any:
    """The plan chooses them where there is a GPU only."""
    if resolved.training.fused_kernels:
        fuse(model)
    return model


@contextmanager
def naming(what: str) -> Iterator[None]:
    """A library's errors on reading a model become a sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Failure(Reason.MODEL_NOT_FOUND, f"{what} cannot be loaded as a language model: {first}") from error


def _from_folder(
    folder: Path, adapter: ResolvedAdapterSpec, numerics: Numerics, head: Head | None
) -> tuple[Any, tuple[str, ...]]:
    if (folder / "adapter_config.json").exists():
        raise ValueError("it is an adapter, not a whole model; name the base it was made for")
    quantised = adapter.type in QUANTISED
    # Weights that learn are kept in float32: bfloat16 would swallow small updates. Frozen ones need not be.
    small = adapter.type != "Full" and numerics.device == "cuda" and numerics.bf16
    kind = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    scoring = AutoConfig.from_pretrained(folder, local_files_only=True) if head else None
    compute = torch.bfloat16 if numerics.bf16 else torch.float32
    model, report = kind.from_pretrained(
        folder,
        **(head.settings() if head else {}),
        dtype=torch.bfloat16 if small else torch.float32,
        device_map={"": numerics.device},
        quantization_config=nf4(compute, scoring) if quantised else None,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if quantised:
        keep_quantised_weights_in_place(model)
    missing = sorted(report["missing_keys"])
    _check_whole([name for name in missing if not (head and is_of_the_head(name, model))])
    return model, tuple(sorted({name.rpartition(".")[0] for name in missing}))


def _drop_idle_settings(generation: GenerationConfig) -> None:
    """Leave out what does nothing, as a temperature without sampling: transformers reads such a file with a warning, and refuses to
    write it once the end tokens are others. Which settings those are only its error says."""
    try:
        generation.validate(strict=True)
    except ValueError as error:
        for name in re.findall(r"^- `(\w+)`:", str(error), re.MULTILINE):
            setattr(generation, name, None)


def _check_whole(lost: list[str]) -> None:
    """Weights that are not in the files would be random, of which transformers only warns; a new head's are meant to be."""
    if lost:
        raise ValueError(
            f"its files lack {len(lost)} of the weights that its config.json asks for, the first {lost[0]}"
        )


def _from_config(stated: FromConfig, tokenizer: Any, seed: int) -> Any:
    """Random weights of the stated sizes."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=stated.hidden_size,
        intermediate_size=stated.intermediate_size,
        num_hidden_layers=stated.layers,
        num_attention_heads=stated.attention_heads,
        num_key_value_heads=stated.key_value_heads or stated.attention_heads,
        max_position_embeddings=stated.max_position_embeddings or DEFAULT_POSITIONS,
        tie_word_embeddings=stated.tie_word_embeddings,
        initializer_range=stated.initializer_range or DEFAULT_INITIALIZER_RANGE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def round_off(model: Any, adapter: ResolvedAdapterSpec, stored_dtype: torch.dtype) -> Any:
    """The trained model with the values that will be stored, and still in float32: what is evaluated is what is published, in the
    arithmetic in which the base was."""
    if adapter.type == "Full":
        for parameter in model.parameters():
            parameter.data.copy_(parameter.data.to(stored_dtype))
    return model


def settle(model: Any, adapter: ResolvedAdapterSpec, stored_dtype: torch.dtype) -> Any:
    """The trained model as it will be stored."""
    if adapter.type == "Full":
        for parameter in model.parameters():  # not the buffers: positions are computed in float32 after loading too
            parameter.data = parameter.data.to(stored_dtype)
    return model
