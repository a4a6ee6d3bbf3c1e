"""Whose turn it is. The model here is a function: the next token is the last one plus one, plus the adapter's number."""

from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_server.batch import STEP_TOKENS
from finetune_server.generation import Decoder, Generation, Piece, SamplingParams
from finetune_server.protocol import ApiError
from finetune_server.worker import ABORTED, Worker

VOCABULARY = 1000


class Counting:
    """Plays LoadedModel; notes each step as (adapter, rows, columns)."""

    def __init__(self) -> None:
        self.decoder = Decoder(
            SimpleNamespace(decode=lambda tokens, **_: "".join(f"{token} " for token in tokens)), frozenset()
        )
        self.steps: list[tuple[str | None, int, int]] = []
        self.active: str | None = None
        self.restored = 0
        self.fail_on = -1

    def activate(self, key: str | None) -> None:
        self.active = key

    def restore(self) -> None:
        self.restored += 1

    def model(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        self.steps.append((self.active, *input_ids.shape))
        if self.fail_on in input_ids:
            raise RuntimeError("injected")
        following = input_ids[:, -1:] + 1 + int(self.active or 0)
        return SimpleNamespace(logits=torch.nn.functional.one_hot(following, VOCABULARY))


@pytest.fixture
def model() -> Counting:
    return Counting()


@pytest.fixture
def worker(model: Counting) -> Worker:
    return Worker(model, SimpleQueue(), lambda _: None, max_num_seqs=4)  # type: ignore[arg-type]


def ask(model: Counting, key: str | None, *prompt: int, max_tokens: int = 2) -> Generation:
    return Generation(key, list(prompt), SamplingParams(max_tokens, temperature=0), model.decoder, lambda _: None)


def finish(worker: Worker) -> list[tuple[Generation, Piece | ApiError]]:
    """Turns until nothing is left."""
    emissions = []
    while worker._lanes:
        emissions += worker.turn()
    return emissions


def test_models_take_turns_whoever_came_first(worker: Worker, model: Counting) -> None:
    worker.add([ask(model, "1", 5, max_tokens=3) for _ in range(3)])
    worker.add([ask(model, "2", 5, max_tokens=3), ask(model, None, 5, max_tokens=3)])
    finish(worker)
    assert model.steps == [("1", 3, 1), ("2", 1, 1), (None, 1, 1)] * 3


def test_a_model_without_a_running_sequence_gets_one_though_another_holds_every_place(
    worker: Worker, model: Counting
) -> None:
    worker.add([ask(model, "1", 5, max_tokens=50) for _ in range(9)])
    worker.turn()
    late = ask(model, "2", 5)
    worker.add([late, ask(model, "2", 5)])
    for _ in range(4):
        worker.turn()
    assert ("2", 1, 1) in model.steps
    assert ("2", 2, 1) not in model.steps, "the second one waits for a place"
    assert max(rows for key, rows, _ in model.steps if key == "1") == 4


def test_those_that_come_later_join_those_that_run(worker: Worker, model: Counting) -> None:
    first, second = ask(model, "1", 5, max_tokens=4), ask(model, "1", 7, 8, 9, max_tokens=3)
    worker.add([first])
    emissions = worker.turn()
    worker.add([second])
    emissions += finish(worker)
    assert model.steps == [("1", 1, 1), ("1", 1, 3), ("1", 1, 1), ("1", 2, 1), ("1", 2, 1)]
    tokens = {who: [piece.tokens[0].id for made, piece in emissions if made is who] for who in (first, second)}
    assert tokens == {first: [7, 9, 11, 13], second: [11, 13, 15]}


def test_a_long_prompt_is_read_in_bites_between_which_others_go_on(worker: Worker, model: Counting) -> None:
    worker.add([ask(model, "1", *range(1, STEP_TOKENS + 89), max_tokens=1), ask(model, None, 5, max_tokens=2)])
    finish(worker)
    assert model.steps == [("1", 1, STEP_TOKENS), (None, 1, 1), ("1", 1, 88), (None, 1, 1)]


def test_nobody_computes_for_a_client_that_has_gone(worker: Worker, model: Counting) -> None:
    waiting, running, other = (ask(model, "1", 5, max_tokens=9) for _ in range(3))
    worker.add([running, other])
    worker.turn()
    worker.add([waiting])
    running.cancelled = waiting.cancelled = True
    assert worker.turn()[:2] == [(waiting, ABORTED), (running, ABORTED)]
    assert model.steps[-1] == ("1", 1, 1)


def test_a_step_that_raises_fails_its_own_sequences_only(worker: Worker, model: Counting) -> None:
    model.fail_on = 66
    good, bad, running = ask(model, None, 5), ask(model, "1", 66), ask(model, "1", 7, max_tokens=3)
    worker.add([running])
    worker.turn()
    worker.add([bad, good])
    emissions = finish(worker)
    assert [str(piece) for made, piece in emissions if made is bad] == [
        "The model failed on this request: RuntimeError('injected')"
    ]
    assert [piece.tokens[0].id for made, piece in emissions if made is running] == [11, 13]  # type: ignore[union-attr]
    assert [piece.finish for made, piece in emissions if made is good] == [None, "length"]  # type: ignore[union-attr]
    assert model.restored == 1


def test_what_is_not_a_number_is_no_answer(worker: Worker, model: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = torch.full((1, 1, VOCABULARY), torch.nan)
    monkeypatch.setattr(model, "model", lambda **_: SimpleNamespace(logits=nan))
    worker.add([ask(model, None, 5)])
    ((_, error),) = worker.turn()
    assert "not a number" in str(error)
