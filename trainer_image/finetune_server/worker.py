"""The model thread: whose turn it is, one step at a time. It alone touches the model.

Every model with work has a lane. A turn belongs to one lane: a bite of its new prompts, then one token for its running ones,
with its adapter active. Lanes take turns, so no adapter starves another. Started by :mod:`finetune_server.engine`, which gives
it commands through a queue and gets emissions back.
"""

import logging
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from finetune_server.batch import Batch
from finetune_server.generation import Decoder, Generation, Piece, SamplingParams
from finetune_server.model import LoadedModel
from finetune_server.protocol import ApiError

log = logging.getLogger(__name__)

Emissions = list[tuple[Generation, Piece | ApiError]]
Command = Callable[["Worker"], None]
ABORTED = Piece("", (), "abort")


class Lane:
    """The work of one model."""

    def __init__(self) -> None:
        self.waiting: deque[Generation] = deque()
        self.batches: list[Batch] = []
        """At most two: one that decodes, and one whose prompts are being read."""

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self.waiting and not self.batches


class Worker:
    """Runs in its thread until told to stop."""

    def __init__(
        self, model: LoadedModel, commands: SimpleQueue[Command], emit: Callable[[Emissions], None], max_num_seqs: int
    ) -> None:
        self.model = model
        self._commands = commands
        self._emit = emit
        self._max_num_seqs = max_num_seqs
        self._lanes: dict[str | None, Lane] = {}
        """The first one is next."""
        self._stopped = False

    def warm_up(self) -> None:
        """Answer once, with rows of different lengths: what this server asks of a model fails here or nowhere."""
        params = SamplingParams(max_tokens=2, temperature=0)
        decoder = Decoder(self.model.decoder.tokenizer, frozenset())
        rows = [Generation(None, [0] * size, params, decoder, lambda _: None) for size in (1, 2)]
        batch = Batch(rows)
        while batch.rows:
            batch.step(self.model.model)

    def run(self) -> None:
        """Commands first, then a turn; sleeps while there is nothing to do."""
        while not self._stopped:
            while not self._stopped and (not self._lanes or not self._commands.empty()):
                self._commands.get()(self)
            if self._lanes:
                self._emit(self.turn())

    def stop(self) -> None:
        """End after this command."""
        self._stopped = True

    def add(self, generations: list[Generation]) -> None:
        """New work."""
        for generation in generations:
            self._lanes.setdefault(generation.model, Lane()).waiting.append(generation)

    def turn(self) -> Emissions:
        """One turn of the lane that is next."""
        key = next(iter(self._lanes))
        lane = self._lanes.pop(key)
        emissions = drop_cancelled(lane)
        self._admit(lane)
        for batch in lane.batches[::-1]:
            emissions += self._step(key, lane, batch)
        if len(lane.batches) == 2 and lane.batches[1].is_decoding:
            lane.batches[0].join(lane.batches.pop())
        if not lane.is_idle:
            self._lanes[key] = lane
        return emissions

    def _admit(self, lane: Lane) -> None:
        """Start what waits, as far as there is room; a model without any running sequence always gets one."""
        if not lane.waiting or (lane.batches and not lane.batches[-1].is_decoding):
            return
        running = sum(len(batch.rows) for other in (lane, *self._lanes.values()) for batch in other.batches)
        room = max(self._max_num_seqs - running, 0 if lane.batches else 1)
        rows = [lane.waiting.popleft() for _ in range(min(room, len(lane.waiting)))]
        if rows:
            lane.batches.append(Batch(rows))

    def _step(self, key: str | None, lane: Lane, batch: Batch) -> Emissions:
        """A step; if it raises, its own sequences fail and nothing of it stays behind."""
        try:
            self.model.activate(key)
            emissions: Emissions = [*batch.step(self.model.model)]
        except Exception as error:
            log.exception("a step of %d sequences failed", len(batch.rows))
            self.model.restore()
            failure = ApiError(500, f"The model failed on this request: {error!r}", type="server_error")
            emissions = [(row, failure) for row in batch.rows]
            batch.rows = []
        if not batch.rows:
            lane.batches.remove(batch)
        return emissions


def drop_cancelled(lane: Lane) -> Emissions:
    """Forget sequences nobody waits for any more."""
    waiting = [generation for generation in lane.waiting if generation.cancelled]
    running = [row for batch in lane.batches for row in batch.rows if row.cancelled]
    if waiting:
        lane.waiting = deque(generation for generation in lane.waiting if not generation.cancelled)
    if running:
        for batch in lane.batches:
            batch.keep([row for row in batch.rows if not row.cancelled])
        lane.batches = [batch for batch in lane.batches if batch.rows]
    return [(generation, ABORTED) for generation in waiting + running]
