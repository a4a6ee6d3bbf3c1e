"""Waiting out a store that does not answer. Used by :mod:`finetune_storage.store` and :mod:`finetune_storage.models`."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from finetune_api.reasons import Failure, Reason

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


def patiently(action: Callable[[], T], uri: str, patience: float, verdict: Callable[[Exception], Failure | None]) -> T:
    """The action's result. ``verdict`` says which end an error means; one that may pass (None) is waited out for ``patience`` s."""
    deadline = time.monotonic() + patience
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except Exception as error:
            end = verdict(error)
            if end is not None:
                raise end from None  # the library's error may quote a request
            what = type(error).__name__
        left = deadline - time.monotonic()
        if left <= 0:
            raise Failure(Reason.STORAGE_UNAVAILABLE, f"{uri}: no answer from the store for {patience:.0f} s ({what})")
        log.warning("%s: no answer (%s), trying again for another %.0f s", uri, what, left)
        time.sleep(min(pause * random.uniform(0.5, 1.0), left))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
