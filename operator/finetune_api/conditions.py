"""Conditions as the Kubernetes API conventions define them: observations, never a state machine."""

import re
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.model import MAP_BY_TYPE, ApiModel, Message, Timestamp

REASON = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
MAX_REASON = 128


class Condition(ApiModel):
    """One observation about an object (metav1.Condition)."""

    type: Annotated[str, Field(max_length=64)]
    """What is observed, for example Complete."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON, pattern=REASON)]
    """One CamelCase word for programs."""
    message: Message = ""
    """A sentence for people: what was seen and what to do."""
    last_transition_time: Timestamp
    """When the status last flipped."""
    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] = 0
    """The metadata.generation this was decided for."""


Conditions = Annotated[list[Condition], Field(max_length=32, json_schema_extra=MAP_BY_TYPE)]


def as_reason(said: str, otherwise: str, message: str) -> tuple[str, str]:
    """A word of somebody else's as a condition's reason, and the sentence; what is no such word moves into the sentence."""
    if len(said) <= MAX_REASON and re.fullmatch(REASON, said):
        return said, message
    return otherwise, f"{said}: {message}"


def find(conditions: list[Condition], type_: str) -> Condition | None:
    """The condition of a type, or None."""
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: list[Condition], type_: str) -> bool:
    """Whether the condition of a type is True."""
    found = find(conditions, type_)
    return found is not None and found.status == "True"


def upsert(conditions: list[Condition], new: Condition) -> list[Condition]:
    """The list with ``new`` in place of its type; ``lastTransitionTime`` moves only when the status flips."""
    old = find(conditions, new.type)
    if old is not None and old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    if old is None:
        return [*conditions, new]
    return [new if condition.type == new.type else condition for condition in conditions]
