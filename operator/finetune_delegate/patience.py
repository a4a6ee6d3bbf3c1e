"""Waiting out a provider that does not answer now: with its own Retry-After where it says one, else ever longer."""

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from finetune_api.reasons import Failure, Reason

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LONGEST_ASKED_SECONDS = 300.0
"""Of a provider's own Retry-After: an hour would hide from the user what goes on."""
RENEWAL_SECONDS = 90.0
"""How long refused credentials are tried again: a Secret that was renewed reaches the pod within about a minute."""


class Passing(Exception):
    """An error that may pass; the message is the provider's.

    ``end`` is what it means when it does not pass; it is waited for ``at_most`` seconds.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        *,
        end: Failure | None = None,
        at_most: float = float("inf"),
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.end = end
        self.at_most = at_most


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The provider's own pause; None where it names none in seconds."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, LONGEST_ASKED_SECONDS) if seconds >= 0 else None


def patiently(action: Callable[[], T], what: str, patience: float) -> T:
    """The action's result. It is tried again after Passing, for ``patience`` seconds; any other exception is raised."""
    began = time.monotonic()
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except Passing as passing:
            error = passing
        said, asked, limit = str(error), error.retry_after, min(patience, error.at_most)
        wait = pause * random.uniform(0.5, 1.0) if asked is None else asked
        if time.monotonic() + wait > began + limit:
            message = f"{what}: the provider did not answer for {limit:.0f} s: {said}"
            raise error.end or Failure(Reason.PROVIDER_UNAVAILABLE, message)
        print(f"{what}: {said}; trying again in {wait:.1f} s", flush=True)
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
