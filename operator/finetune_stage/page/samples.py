"""Prompts with the answers of base and tuned model, side by side. Every text is escaped."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Sample(NamedTuple):
    """A held-out prompt and what came of it."""

    prompt: str
    reference: str
    base: str | None
    """None where the base was not asked."""
    tuned: str


def samples(shown: Sequence[Sample]) -> str:
    """A card each; an answer that is the reference is marked."""
    return "".join(map(_card, shown))


def _card(sample: Sample) -> str:
    said = [("Reference", sample.reference), ("Base", sample.base), ("Tuned", sample.tuned)]
    answers = "".join(_answer(who, text, sample.reference) for who, text in said if text is not None)
    return (
        f'<div class="card"><pre class="prompt">{escape(sample.prompt)}</pre><div class="answers">{answers}</div></div>'
    )


def _answer(who: str, text: str, reference: str) -> str:
    is_right = who != "Reference" and text.strip() == reference.strip()
    mark = ' <span class="good">✓</span>' if is_right else ""
    return f'<div><span class="under">{who}{mark}</span><pre>{escape(text.strip()) or "(nothing)"}</pre></div>'
