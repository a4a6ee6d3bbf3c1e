"""How far the prepare stage is: a line in the log, and a report to the operator, at most every few seconds."""

import time
from collections.abc import Callable

PAUSE_SECONDS = 5.0
ROWS_BETWEEN_LOOKS = 500


class Progress:
    """Counts rows of one step after the other; ``tell`` gets the step's name, the rows done and the rows there are, if known."""

    def __init__(
        self, tell: Callable[[str, int, int | None], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._told = clock()

    def begin(self, name: str, total: int | None = None) -> None:
        """A new step."""
        self._name, self._total, self._done = name, total, 0

    def step(self) -> None:
        """One row more."""
        self._done += 1
        if self._done % ROWS_BETWEEN_LOOKS == 0 and self._clock() - self._told >= PAUSE_SECONDS:
            self._told = self._clock()
            self._tell(self._name, self._done, self._total)
