"""Models with a head that scores a text instead of going on with it: a reward, or classes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BitsAndBytesConfig

from finetune_api.artifacts import Resolved
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.adapter import AdapterType
from finetune_api.v1alpha1.methods import ClassificationMethod
from finetune_trainer.batching import BATCH_TOKENS, batches, padded

QUANTISED = ("QLoRA", "QDoRA")
"""Adapters on a base in 4 bits."""
MULTI = "multi_label_classification"
BLANK = re.compile(r"pad|reserved|unused|extra", re.IGNORECASE)
"""Names of tokens that stand for nothing."""
NO_TEXT = ("<0xFF>", "\u00ff")
"""How vocabularies of bytes write the byte 255, which UTF-8 has not."""


class Head(NamedTuple):
    """What the scores of a text are."""

    labels: tuple[str, ...]
    """One score for each."""
    problem: str
    """Transformers' problem_type, by which it chooses the loss."""

    def settings(self) -> dict[str, Any]:
        """As transformers' configuration names them."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: place for place, label in enumerate(self.labels)},
            "problem_type": self.problem,
        }


def head_of(resolved: Resolved) -> Head | None:
    """None for methods whose models write text."""
    if resolved.method == "reward":
        return Head(("reward",), "regression")
    return class_head(resolved) if resolved.method == "classification" else None


def class_head(resolved: Resolved) -> Head:
    """One score for each class."""
    stated = resolved.method_settings.classification or ClassificationMethod()
    return Head(tuple(stated.labels or ()), MULTI if stated.multi_label else "single_label_classification")


def fit_padding(model: Any, tokenizer: Any) -> None:
    """A decoder's score is read at the last token that is no padding; the configuration says which one pads.

    That is none that ends a text, as in many bases: an answer that has ended would score like one that goes on.
    """
    tokenizer.pad_token = _padding(tokenizer, model.get_input_embeddings().num_embeddings)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _padding(tokenizer: Any, rows: int) -> str:
    """The base's own, one that stands for nothing, or a byte that no text has; ``rows`` are those of the embeddings."""
    added = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    known = tokenizer.get_vocab()
    unwritten = [byte for byte in NO_TEXT if byte in known and tokenizer.decode([known[byte]]) == "\ufffd"]
    candidates = [tokenizer.pad_token, *filter(BLANK.search, added), tokenizer.unk_token, *unwritten]
    ends = (None, tokenizer.eos_token, tokenizer.sep_token)
    found: str | None = next(
        (token for token in candidates if token not in ends and known.get(token, rows) < rows), None
    )
    if found is None:
        raise Failure(
            Reason.CONFIG_INVALID,
            "the base model's tokenizer has no token to fill up rows with but the one that ends texts; "
            "name another one as pad_token in its tokenizer_config.json",
        )
    return found


def is_of_the_head(name: str, model: Any) -> bool:
    """Whether a module or weight of this name belongs to the head, as does a pooler in the body."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


def nf4(compute: torch.dtype, scoring: Any = None) -> BitsAndBytesConfig:
    """How a base is held in 4 bits; ``scoring`` is the configuration of one with a head, which learns in full."""
    return BitsAndBytesConfig(
        llm_int8_skip_modules=_layers_of_the_head(scoring) if scoring else None,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _layers_of_the_head(config: Any) -> list[str]:
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    layers = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return [name for name in layers if is_of_the_head(name, model)]


def keep_quantised_weights_in_place(model: Any) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes repacks the weights in place at the first forward in eval mode, and every
    gradient after that is silently wrong."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_scorer(folder: Path, base: Path | None, device: str, adapter: AdapterType) -> Any:
    """A published model that scores texts: whole in ``folder``, or an adapter there for the ``base``; in float32, at rest.

    Its configuration is in ``folder`` in both cases: the scores' number and names, the padding. ``adapter`` is the type it was
    trained with (in resolved.json): the base is held as it was then.
    """
    from peft import PeftModel

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    whole, quantised = adapter == "Full", adapter in QUANTISED
    model = AutoModelForSequenceClassification.from_pretrained(
        folder if whole else base,
        config=config,
        quantization_config=nf4(torch.float32, config) if quantised else None,
        dtype=torch.float32,
        device_map={"": device},
        use_safetensors=True,
        local_files_only=True,
    )
    if quantised:
        keep_quantised_weights_in_place(model)
    return (model if whole else PeftModel.from_pretrained(model, folder)).eval()


def text_scores(model: Any, texts: list[list[int]]) -> list[torch.Tensor]:
    """Of each text, its scores in float32, one per label."""
    found: dict[int, torch.Tensor] = {}
    pad = model.config.get_text_config().pad_token_id
    for places in batches([len(ids) for ids in texts], BATCH_TOKENS[model.device.type]):
        ids, mask = padded([texts[place] for place in places], pad, model.device, left=False)
        logits = model(input_ids=ids, attention_mask=mask).logits.float().cpu()
        found |= dict(zip(places, logits, strict=True))
    return list(_in_order(found))


def _in_order(found: dict[int, torch.Tensor]) -> Iterator[torch.Tensor]:
    return (found[place] for place in range(len(found)))
