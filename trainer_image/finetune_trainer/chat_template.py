"""The base's chat template: whether rows of messages can be learned through it. Used by :mod:`finetune_trainer.encode`."""

from typing import Any

from finetune_api.reasons import Failure, Reason

ASKED, ANSWERED = {"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}
"""A conversation to see by what a template does."""


def default_template(tokenizer: Any) -> str:
    """The template, of several named ones the one that is used where nothing asks for another. Raises Failure."""
    found = tokenizer.chat_template
    has_names = isinstance(found, dict)
    template = found.get("default") if has_names else found
    if not template:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"the base model's tokenizer has no chat template{' named default' if has_names else ''}, which rows of messages need; "
            "use rows of plain texts, or a base with a chat template",
        )
    return str(template)


def check_texts(tokenizer: Any, template: str | None) -> None:
    """Some templates, of models that see, write only lists of parts, and leave a plain text out without a word."""
    rendered = tokenizer.apply_chat_template([ASKED, ANSWERED], chat_template=template, tokenize=False)
    if not all(said["content"] in rendered for said in (ASKED, ANSWERED)):
        raise Failure(
            Reason.CONFIG_INVALID,
            "the base model's chat template does not write messages whose content is a text; use rows of plain texts, or another base",
        )


def training_template(tokenizer: Any) -> str:
    """The template with the assistant's turns marked: the base's own, or what TRL knows for its family. Raises Failure."""
    from trl.chat_template_utils import (
        get_training_chat_template,
        has_generation_markers,
        is_chat_template_stop_token_trained,
    )

    template = default_template(tokenizer)
    if not has_generation_markers(template):
        try:
            template = get_training_chat_template(tokenizer)
        except ValueError:
            raise Failure(
                Reason.CONFIG_INVALID,
                "the base model's chat template does not mark assistant turns with {% generation %} and is of no known family; "
                "set method.sft.assistantOnlyLoss to false, or use prompt/completion rows",
            ) from None
    if not is_chat_template_stop_token_trained(tokenizer, chat_template=template):
        raise Failure(
            Reason.CONFIG_INVALID,
            "the base model's chat template leaves the end token out of the assistant turn, so that a model trained on it "
            "would never stop; set method.sft.assistantOnlyLoss to false, or use prompt/completion rows",
        )
    return str(template)
