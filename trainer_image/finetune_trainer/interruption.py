"""SIGTERM: at once an end with reason Interrupted, but while training the current step is finished and saved first."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from finetune_api.reasons import Failure, Reason


class Interruption:
    """Installed for the length of a ``with`` block, in the main thread."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._earlier: signal._HANDLER = None

    def __enter__(self) -> "Interruption":
        self._earlier = signal.signal(signal.SIGTERM, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._earlier)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block SIGTERM only sets ``requested``."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self, where: str) -> None:
        """Raise if SIGTERM came; for the ends of deferred work, and where a library may have swallowed the exception."""
        if self.requested:
            raise Failure(Reason.INTERRUPTED, f"stopped by SIGTERM {where}")

    def _received(self, number: int, frame: FrameType | None) -> None:
        os.write(1, b"SIGTERM received\n")  # print may be where the signal came, and cannot be entered twice
        self.requested = True
        if not self._deferred:
            self.check("outside of training; nothing is lost, the next attempt goes on from the last checkpoint")
