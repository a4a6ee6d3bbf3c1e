"""What can be known of a base model before a GPU is taken: its configuration and its files, not its weights."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from finetune_api.matrix import MethodName
from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.base_model import FromConfig
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_stage.outcome import Places
from finetune_storage import fetch_model, is_model_file, pin_model
from finetune_trainer.memory import Shape, shape_of
from finetune_trainer.targets import PLAIN, Linear, linear_layers
from finetune_trainer.tokenizer import DEFAULT_POSITIONS

CODE_FIELD = "auto_map"
LARGE = 1_000_000_000
"""Parameters from which on activations are recomputed rather than kept."""
NUMBERED_AFTER_PADDING = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
"""Architectures whose first position is the one after the padding token's id: the earlier ones are never used."""


class BaseFacts(NamedTuple):
    """What the plan needs to know of the base model."""

    pinned: ResolvedBaseModel
    positions: int | None
    """Longest sequence; None where the architecture has no limit."""
    is_large: bool
    random: bool
    """Made from random weights."""
    shape: Shape | None = None
    """Sizes, where the architecture is one whose memory can be predicted."""
    linear: Linear = PLAIN
    """Layers that a low-rank adapter changes."""
    stateful: str = ""
    """Kind of its layers that carry a state along a sequence; empty: only attention reaches back."""

    def with_room_for(self, virtual_tokens: int) -> "BaseFacts":
        """With the positions that learned tokens before each row leave."""
        return self if self.positions is None else self._replace(positions=max(1, self.positions - virtual_tokens))


def from_config(stated: FromConfig) -> BaseFacts:
    """A base that is yet to be made."""
    size = _parameters(stated.layers, stated.hidden_size, stated.vocabulary_size)
    heads = stated.attention_heads
    shape = Shape(
        stated.hidden_size,
        stated.intermediate_size,
        stated.layers,
        heads,
        stated.key_value_heads or heads,
        stated.hidden_size // heads,
        stated.vocabulary_size,
        stated.tie_word_embeddings,
    )
    positions = stated.max_position_embeddings or DEFAULT_POSITIONS
    return BaseFacts(ResolvedBaseModel(), positions, size >= LARGE, random=True, shape=shape)


def inspect(base: ResolvedBaseModel, folder: Path, places: Places, method: MethodName) -> BaseFacts:
    """Fetch all but the weights into ``folder`` and refuse what could not be trained. Raises Failure."""
    secret = places.secret(base.secret_ref)
    pinned, files = pin_model(base, secret, secret_wait=places.secret_wait)
    _check_files(files, str(base.uri))
    fetch_model(
        pinned,
        folder,
        secret,
        wanted=lambda name: is_model_file(name) and not name.endswith(".safetensors"),
        secret_wait=places.secret_wait,
    )
    _check_no_code(folder, str(base.uri))
    config = _config(folder, str(base.uri), method)
    return BaseFacts(
        ResolvedBaseModel.model_validate(pinned.model_dump()),
        positions_of(config),
        _parameters(config.num_hidden_layers, config.hidden_size, config.vocab_size) >= LARGE,
        random=False,
        shape=shape_of(config),
        linear=linear_layers(config),
        stateful=stateful_layers(config),
    )


def positions_of(config: Any) -> int | None:
    """Longest sequence that a text model of this configuration reads; None where its architecture has no limit."""
    stated = getattr(config, "max_position_embeddings", None)
    if stated is None or stated < 1:  # XLNet says -1
        return None
    return int(stated - (config.pad_token_id + 1 if config.model_type in NUMBERED_AFTER_PADDING else 0))


def stateful_layers(config: Any) -> str:
    """Kind of a text model's layers that carry a state along a sequence (Mamba, linear attention, convolutions); empty: none."""
    kinds = [*(getattr(config, "layer_types", None) or ()), *(["rwkv"] if config.model_type == "rwkv" else [])]
    reach_back = ("_attention", "mlp", "moe")
    return next((kind for kind in kinds if kind == "linear_attention" or not kind.endswith(reach_back)), "")


def check_vocabulary(tokenizer: Any, folder: Path, uri: str, method: MethodName) -> None:
    """Every token must have a row in the embedding."""
    entries, highest = _config(folder, uri, method).vocab_size, max(tokenizer.get_vocab().values())
    if highest >= entries:
        raise Failure(
            Reason.MODEL_NOT_FOUND,
            f"{uri}: its tokenizer has token {highest}, but config.json says vocab_size {entries}: they do not belong together",
        )


def _check_files(files: list[str], uri: str) -> None:
    if "config.json" not in files:
        adapter = "; it is an adapter: name the base it was made for" if "adapter_config.json" in files else ""
        raise Failure(Reason.MODEL_NOT_FOUND, f"{uri} has no config.json, so it is not a model{adapter}")
    if code := [name for name in files if name.endswith(".py")]:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{uri} carries Python code ({code[0]}); a model's own code is never run. Use an architecture transformers knows",
        )
    if not any(name.endswith(".safetensors") for name in files):
        weights = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".gguf", ".h5", ".ckpt"))]
        found = f" (found {weights[0]})" if weights else ""
        raise Failure(Reason.MODEL_NOT_FOUND, f"{uri} has no safetensors weights{found}; only safetensors are loaded")


def _check_no_code(folder: Path, uri: str) -> None:
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            raise Failure(Reason.MODEL_NOT_FOUND, f"{uri}: {path.name} is not valid JSON") from None
        if isinstance(content, dict) and CODE_FIELD in content:
            raise Failure(
                Reason.CONFIG_INVALID,
                f"{uri}: {path.name} names code of its own ({CODE_FIELD}); a model's own code is never run. "
                "Use an architecture transformers knows",
            )


def _config(folder: Path, uri: str, method: MethodName) -> Any:
    """The text model's configuration. Raises Failure unless it is a model that the method can train."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFYING

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Failure(
            Reason.MODEL_NOT_FOUND,
            f"{uri}: config.json cannot be used with transformers {transformers.__version__}: {first[:300]}",
        ) from error
    stated = getattr(config, "architectures", None) or []
    if method == "classification" and config.model_type in CLASSIFYING:
        pass  # encoders too
    elif config.model_type not in CAUSAL or (stated and not set(stated) & _class_names(CAUSAL)):
        raise Failure(
            Reason.MODEL_NOT_FOUND,
            f"{uri}: {', '.join(stated) or config.model_type} is not a causal language model of transformers "
            f"{transformers.__version__}",
        )
    if getattr(config, "quantization_config", None):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{uri} is quantised already; give the unquantised model (adapter QLoRA quantises it while loading)",
        )
    return config.get_text_config()


def _class_names(mapping: Any) -> set[str]:
    names: set[str] = set()
    for value in mapping.values():
        names.update([value] if isinstance(value, str) else value)
    return names


def _parameters(layers: int, hidden: int, vocabulary: int) -> int:
    """About how many: a decoder layer has some twelve times the square of its width."""
    return 12 * layers * hidden * hidden + vocabulary * hidden
