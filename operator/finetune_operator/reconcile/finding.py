"""What stands in an object's way, of both kinds."""

from typing import NamedTuple

from finetune_api.reasons import Reason, ServingReason


class Finding(NamedTuple):
    """A reason and a sentence that says what to do."""

    reason: Reason | ServingReason
    message: str
