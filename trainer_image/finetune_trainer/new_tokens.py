"""Tokens a job adds to its base: the same in prepare and in training, and the rows of the vocabulary that learn for them.

A new token begins as the mean of the tokens the base reads it as, in the embedding and in the output layer. So begins the base
in the evaluation too: both models read the same tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from finetune_api.reasons import Failure, Reason


class NewToken(NamedTuple):
    """An entry of the vocabulary."""

    row: int
    """Its id."""
    pieces: list[int]
    """What the base reads it as."""


def add(tokenizer: Any, texts: Sequence[str]) -> list[NewToken]:
    """Add them to the tokenizer, in their order. Raises Failure for what the base has a token for."""
    if not texts:
        return []
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    pieces = {text: list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts}
    for text, ids in pieces.items():
        if text in known or (len(ids) == 1 and ids[0] != tokenizer.unk_token_id):
            raise Failure(
                Reason.CONFIG_INVALID,
                f"adapter.newTokens names {text!r}, which is one token of the base model already ({known.get(text, ids[0])}); leave it out",
            )
    # Not special: they are parts of answers, which stay when an answer is decoded.
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in texts])
    return [NewToken(tokenizer.convert_tokens_to_ids(text), ids) for text, ids in pieces.items()]


def make_room(model: Any, tokens: Sequence[NewToken]) -> None:
    """Rows for them, in the base's spare ones or behind its last. Raises Failure where the output layer cannot take them."""
    if not tokens:
        return
    import torch

    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise Failure(
            Reason.CONFIG_INVALID,
            "the base model's output layer has a bias, beside which no rows of new tokens can learn; leave adapter.newTokens out",
        )
    rows = max(token.row for token in tokens) + 1
    if rows > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            for token in tokens:  # where the two are one this writes the same twice
                weight[token.row] = weight[token.pieces].float().mean(0)


def trained_rows(model: Any, rows: Sequence[int]) -> dict[str, list[int]]:
    """Names of the layers that hold rows of the vocabulary, with those that learn: PEFT's ``trainable_token_indices``."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = (embedding,) if head.weight is embedding.weight else (embedding, head)  # PEFT ties what is tied
    return {name: list(rows) for name, module in model.named_modules() if any(module is each for each in layers)}


def settle_head(tuned: Any) -> None:
    """Make PEFT's wrapper of the output layer readable to TRL, and the checkpoints small."""
    from peft.utils.other import TrainableTokensWrapper

    head = tuned.get_base_model().get_output_embeddings()
    if not isinstance(head, TrainableTokensWrapper):
        raise Failure(
            Reason.CONFIG_INVALID,
            "the base model ties its output layer to the embedding in a way PEFT does not follow; leave adapter.newTokens out",
        )
    head.register_parameter("bias", None)  # TRL's fused loss asks for it, and the wrapper passes on the weight only
    # By this name PEFT compares the vocabulary with the stored base's, and would keep whole embeddings in every checkpoint.
    tuned.peft_config[tuned.active_adapter].base_model_name_or_path = None
