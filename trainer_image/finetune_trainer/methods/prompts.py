"""Rows of the methods that sample answers: a prompt to answer, and the reference a reward may compare with."""

from typing import Any

from datasets import Dataset

from finetune_api.artifacts import Resolved
from finetune_trainer.encode import Encoder, Fields


def dataset(encoder: Encoder, rows: list[Fields], resolved: Resolved) -> Any:
    """Columns prompt (token ids; what leaves no room for an answer loses its beginning) and reference."""
    settings = resolved.method_settings.rewarded()
    assert settings is not None
    assert settings.max_new_tokens is not None  # decided by the plan
    room = resolved.training.max_length - settings.max_new_tokens
    return Dataset.from_list(
        [{"prompt": encoder.prompt(fields)[-room:], "reference": encoder.reference(fields)} for fields in rows]
    )
