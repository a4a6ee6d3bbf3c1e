"""Held-out prompts with the answers of base and tuned model, for people to read; nothing that looks like a secret is among them."""

from finetune_stage.chats import answer_of, chat_of
from finetune_stage.page import Sample
from finetune_stage.rows import Row
from finetune_stage.scores import EvaluationFile, RowScore
from finetune_trainer.data.privacy import is_sensitive

LONGEST = 1_200
"""Characters of a text that are shown."""


def shareable(text: str) -> str | None:
    """The text, cut; None where something in it looks like a secret or like personal data."""
    if is_sensitive(text):
        return None
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def samples(rows: list[Row], file: EvaluationFile | None) -> list[Sample]:
    """The rows whose answers were kept."""
    if file is None:
        return []
    nothing: list[RowScore | None] = [None] * len(file.tuned)
    before = file.base or nothing
    found = [
        _sample(*each) for each in zip(rows, before, file.tuned, strict=False)
    ]  # without held-out rows none are scored
    return [sample for sample in found if sample is not None]


def _sample(row: Row, base: RowScore | None, tuned: RowScore) -> Sample | None:
    if tuned.answer is None or (base is not None and base.answer is None):
        return None
    turns = chat_of(row)
    asked = "\n\n".join(
        str(turn.get("content") or "") if len(turns) == 1 else f"{turn['role']}: {turn.get('content') or ''}"
        for turn in turns
    )
    prompt, reference = shareable(asked), shareable(answer_of(row.fields))
    if prompt is None or reference is None:
        return None
    return Sample(prompt, reference, base.answer if base else None, tuned.answer)
