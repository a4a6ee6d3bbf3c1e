"""The tokenizer: the base model's own, or one trained on the training rows where the base starts from random weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.reasons import Failure, Reason
from finetune_api.v1alpha1.base_model import FromConfig

END_OF_TEXT, TURN_BEGIN, TURN_END, PADDING = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
DEFAULT_POSITIONS = 2048
CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{ message['content'] + '<|im_end|>' }}{%- endgeneration -%}"
    "{%- else -%}{{ message['content'] + '<|im_end|>' }}{%- endif -%}"
    "{{ '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""ChatML; the generation markers say which tokens are the assistant's."""


def load_tokenizer(folder: Path, uri: str) -> Any:
    """The tokenizer of a model's folder, as the train stage loads it. Raises Failure."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Failure(Reason.MODEL_NOT_FOUND, f"{uri}: its tokenizer cannot be loaded: {first}") from error


def train_tokenizer(rows: Path, stated: FromConfig, folder: Path) -> Any:
    """A byte-level BPE of at most ``vocabularySize`` entries, trained on prepared rows of text; saved in ``folder``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=stated.vocabulary_size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(rows), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        additional_special_tokens=[TURN_BEGIN, TURN_END],
        chat_template=CHATML,
        model_max_length=stated.max_position_embeddings or DEFAULT_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _texts(rows: Path) -> Iterator[str]:
    with rows.open("rb") as file:
        for line in file:
            yield json.loads(line)["text"]
