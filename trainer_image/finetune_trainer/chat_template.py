"""The base's chat template: whether rows of messages can be learned through it, and what ends an answer where it does not say.

Used by :mod:`finetune_trainer.encode`.
"""

import json
import re
from datetime import date, datetime, time
from functools import cache
from typing import Any

from jinja2 import TemplateError

from finetune_api.reasons import Failure, Reason

ASKED, ANSWERED = {"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}
"""A conversation to see by what a template does."""
UNWRITTEN = (TemplateError, TypeError)
"""What a template ends in that refuses messages, or expects them otherwise."""
LONGEST_REASON = 200
CLOCK = re.compile(r"""\bstrftime_now\(\s*(?P<quote>['"])(?P<format>.*?)(?P=quote)\s*\)""")
"""How templates ask for the date."""


class Refused(Failure):
    """A row whose messages the template does not write."""

    def __init__(self, error: Exception) -> None:
        self.why = (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST_REASON]
        """The template's own words."""
        super().__init__(Reason.DATA_INVALID, f"the base model's chat template refuses a row's messages ({self.why})")


def asks_for_the_date(tokenizer: Any) -> bool:
    """Whether a template writes the day into conversations, as Llama 3.2's does: then tokens are others tomorrow."""
    found = tokenizer.chat_template
    templates = found.values() if isinstance(found, dict) else [found or ""]
    return any(CLOCK.search(template) for template in templates)


@cache
def on_day(template: str, day: date) -> str:
    """The template with the day in the places where it asks for the date."""
    return CLOCK.sub(lambda asked: json.dumps(datetime.combine(day, time()).strftime(asked["format"])), template)


def written(
    tokenizer: Any, messages: list[dict[str, Any]], template: str | None, day: date | None, **options: Any
) -> Any:
    """The tokens of messages, as a template writes them (None: the tokenizer's own) on a day (None: today). Raises Refused."""
    default_template(tokenizer)
    if day is not None:  # transformers lets no clock but its own into a template
        template = on_day(tokenizer.get_chat_template(template, options["tools"]), day)
    try:
        return tokenizer.apply_chat_template(messages, chat_template=template, return_dict=True, **options)
    except UNWRITTEN as error:
        raise Refused(error) from error


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
    try:
        rendered, why = tokenizer.apply_chat_template([ASKED, ANSWERED], chat_template=template, tokenize=False), ""
    except UNWRITTEN as error:
        rendered, why = "", f" ({error})"
    if not all(said["content"] in rendered for said in (ASKED, ANSWERED)):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"the base model's chat template does not write messages whose content is a text{why}; "
            "use rows of plain texts, or another base",
        )


def missing_end(tokenizer: Any, markers: frozenset[int]) -> int | None:
    """What ends an answer where the template puts nothing behind the last one: the token it begins the next turn with, if that is one of
    ``markers``, else the end token. None where the template ends answers itself, or writes no conversations."""
    try:
        default_template(tokenizer)
        rendered = tokenizer.apply_chat_template([ASKED, ANSWERED], tokenize=False)
        longer = tokenizer.apply_chat_template([ASKED, ANSWERED, ASKED], tokenize=False)
    except (Failure, *UNWRITTEN):
        return None
    behind = rendered.rpartition(ANSWERED["content"])[2]
    if markers.intersection(_ids(tokenizer, behind)):
        return None
    following = _ids(tokenizer, longer.removeprefix(rendered)) if longer.startswith(rendered) else []
    end: int = following[0] if following and following[0] in markers else tokenizer.eos_token_id
    return end


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


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
