"""The event loop's side of the model thread: what may be submitted, what is under way, and when the server may stop.

Used by :mod:`finetune_server.api` and :mod:`finetune_server.registry`; starts :mod:`finetune_server.worker` in its thread.
Every submitted generation ends with exactly one final piece or error, also when the thread dies.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from finetune_server.generation import Generation
from finetune_server.protocol import ApiError, unavailable

if TYPE_CHECKING:  # torch comes with it, which the model thread imports
    from finetune_server.model import LoadedModel
    from finetune_server.worker import Command, Emissions, Worker

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Engine:
    """One model thread and what is under way in it. All methods belong to the event loop."""

    def __init__(self, load: Callable[[], "LoadedModel"], *, max_num_seqs: int, max_queue: int) -> None:
        self._load = load
        self._max_num_seqs = max_num_seqs
        self._max_queue = max_queue
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._in_flight: set[Generation] = set()
        self._calls: set[asyncio.Future[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._retired: set[str] = set()
        self._draining = False
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[LoadedModel] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.state: Literal["loading", "ready", "dead"] = "loading"

    async def start(self) -> "LoadedModel":
        """Start the thread; the model, once it answered. Raises what loading raised."""
        self._thread.start()
        return await asyncio.shield(self._started)

    def submit(self, generations: list[Generation]) -> None:
        """Queue all of a request or nothing of it. Raises ApiError where the server is not ready or the queue is full."""
        self._check_ready()
        if self._draining:
            raise unavailable("The server is shutting down.")
        model = generations[0].model
        waiting = sum(other.model == model for other in self._in_flight)
        if len(generations) > self._max_queue:
            raise ApiError(
                400, f"The request asks for {len(generations)} sequences; at most {self._max_queue} are taken."
            )
        if waiting + len(generations) > self._max_queue:
            message = f"The queue of this model is full: {waiting} sequences are under way, at most {self._max_queue}."
            raise ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", retry_after=1)
        self._in_flight.update(generations)
        self._idle.clear()
        self._commands.put(lambda worker: worker.add(generations))

    async def call(self, action: Callable[["LoadedModel"], Result]) -> Result:
        """Run something on the model thread, between two steps."""
        self._check_ready()
        future: asyncio.Future[Result] = self._loop.create_future()
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)

        def command(worker: "Worker") -> None:
            try:
                result = action(worker.model)
            except Exception as error:
                self._loop.call_soon_threadsafe(settle, future, None, error)
            else:
                self._loop.call_soon_threadsafe(settle, future, result, None)

        self._commands.put(command)
        return await future

    def retire(self, key: str) -> None:
        """Free an adapter once its last sequence has ended; no new ones may be submitted."""
        self._retired.add(key)
        self._free_retired()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, let what is under way end, fail the rest after ``seconds``, stop the thread."""
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            log.warning("%d sequences did not end within %g s", len(self._in_flight), seconds)
            self._fail(unavailable("The server is shutting down."))
        self._commands.put(lambda worker: worker.stop())

    def _check_ready(self) -> None:
        if self.state == "loading":
            raise unavailable("The model is being loaded.")
        if self.state == "dead":
            raise ApiError(500, "The model thread has died.", type="server_error")

    def _run(self) -> None:
        try:
            from finetune_server.worker import Worker

            worker = Worker(self._load(), self._commands, self._emit, self._max_num_seqs)
            worker.warm_up()
            self._loop.call_soon_threadsafe(self._ready, worker.model)
            worker.run()
        except BaseException as error:  # whatever it was, /health must say so
            self._loop.call_soon_threadsafe(self._died, error)

    def _emit(self, emissions: "Emissions") -> None:
        self._loop.call_soon_threadsafe(self._deliver, emissions)

    def _ready(self, model: "LoadedModel") -> None:
        self.state = "ready"
        self._started.set_result(model)

    def _died(self, error: BaseException) -> None:
        self.state = "dead"
        if not self._started.done():
            self._started.set_exception(error)
            return
        log.error("the model thread died", exc_info=error)
        failure = ApiError(500, "The model thread has died.", type="server_error")
        self._fail(failure)
        for future in list(self._calls):
            settle(future, None, failure)

    def _deliver(self, emissions: "Emissions") -> None:
        for generation, piece in emissions:
            if generation not in self._in_flight:
                continue  # failed at shutdown
            if isinstance(piece, ApiError) or piece.finish:
                self._in_flight.remove(generation)
            generation.sink(piece)
        self._settle()

    def _fail(self, error: ApiError) -> None:
        for generation in self._in_flight:
            generation.cancelled = True
            generation.sink(error)
        self._in_flight.clear()
        self._settle()

    def _settle(self) -> None:
        if not self._in_flight:
            self._idle.set()
        self._free_retired()

    def _free_retired(self) -> None:
        free = self._retired.difference(generation.model for generation in self._in_flight)
        self._retired -= free
        for key in free:
            self._commands.put(partial(_remove, key))


def _remove(key: str, worker: "Worker") -> None:
    worker.model.remove_adapter(key)


def settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    """Give a future its outcome, unless its waiter has gone."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
