"""Curves at MLflow while training goes on, from a thread of its own: no step ever waits for the server.

metrics.jsonl is the queue: a logged step only says that there are new lines. What a server that is away has missed is read there
again once it is back, or at the end by :func:`finetune_trainer.mlflow_run.send`. Called by :mod:`finetune_trainer.recipe`.
"""

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

from finetune_api.artifacts import METRICS
from finetune_api.reasons import Failure, Reason
from finetune_trainer import mlflow_run
from finetune_trainer.inputs import Inputs
from finetune_trainer.tracking import sentence

PAUSE_SECONDS = 2.0
"""Between two batches of lines."""
AGAIN_SECONDS = 60.0
"""Until a server that failed is asked again."""
LAST_SECONDS = 10.0
"""An attempt that ends waits for the request under way, and for the last ones."""


class Live:
    """Sends an attempt's steps; a context manager, which also tells the server that an attempt failed.

    Without ``inputs``, and where they name no MLflow, nothing happens.
    """

    def __init__(self, inputs: Inputs | None) -> None:
        tracking = inputs.resolved.tracking if inputs else None
        self._stated, self._inputs = tracking.mlflow if tracking else None, inputs
        self._run: mlflow_run.Run | None = None
        self._read = 0
        """Bytes of metrics.jsonl."""
        self._failures = 0
        self._news = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)

    def __enter__(self) -> "Live":
        if self._stated is not None:
            self._try(partial(mlflow_run.load, retries=0))  # the thread tries again by itself
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()
        if error is not None and self._run is not None and not self._thread.is_alive():
            is_interrupted = isinstance(error, Failure) and error.reason is Reason.INTERRUPTED
            end = partial(self._end, "KILLED" if is_interrupted else "FAILED")
            last = threading.Thread(target=self._try, args=(end,), daemon=True)
            last.start()
            last.join(LAST_SECONDS)

    def news(self) -> None:
        """The training begins, or metrics.jsonl has a new line."""
        self._news.set()

    def rest(self) -> None:
        """Send nothing more, but at a bad end."""
        self._over.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(LAST_SECONDS)

    def _follow(self) -> None:
        self._news.wait()
        while not self._over.is_set():
            self._news.clear()
            self._try(self._send)
            if self._failures:
                self._news.set()  # what was there to send still is
            self._over.wait(AGAIN_SECONDS if self._failures else PAUSE_SECONDS)
            self._news.wait()

    def _try(self, act: Callable[[], None]) -> None:
        """Any error of the library costs freshness only: it is said once, and again when it is over."""
        try:
            act()
        except Exception as error:
            self._run = None  # it may be deleted: looked for, or made, again
            self._failures += 1
            if self._failures == 1:
                _say(f"MLflow was not told ({sentence(error)}); the training does not wait for it")
        else:
            if self._failures:
                _say(f"MLflow is told again, after {self._failures} failures")
            self._failures = 0

    def _send(self) -> None:
        """The lines that are new; to a run just opened, all that it has not."""
        stated, inputs = self._stated, self._inputs
        assert stated is not None
        assert inputs is not None
        if self._run is None:
            self._run, self._read = mlflow_run.begin(stated, inputs.resolved, inputs.places.secrets_dir, _now()), 0
        with (inputs.work / METRICS).open("rb") as file:
            file.seek(self._read)
            lines = file.read().rpartition(b"\n")[:2]  # the last one may be half written
        self._run.log(each for line in lines[0].splitlines() for each in mlflow_run.metrics_of(json.loads(line)))
        self._read += sum(map(len, lines))

    def _end(self, status: str) -> None:
        assert self._run is not None
        self._send()
        self._run.set_status(status, _now())


def _now() -> int:
    """In milliseconds."""
    return round(time.time() * 1000)


def _say(line: str) -> None:
    """A line of its own, whatever the training says at that moment: print writes a line and its end apart."""
    print(f"{line}\n", end="", flush=True)
