"""Values, as stated or as chosen; what was chosen is noted with its reason, and shown to the user."""

from dataclasses import dataclass, field
from typing import TypeVar

from finetune_api.v1alpha1.finetunejob_status import Choice

T = TypeVar("T")


@dataclass
class Choices:
    """What was chosen so far."""

    made: list[Choice] = field(default_factory=list)

    def take(self, name: str, stated: T | None, chosen: T, reason: str) -> T:
        """The stated value, else the chosen one."""
        if stated is not None:
            return stated
        self.made.append(Choice(field=name, value=_shown(chosen), reason=reason))
        return chosen


def _shown(value: object) -> str:
    """As in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
