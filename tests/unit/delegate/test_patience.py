"""How long a provider that does not answer is waited for, and what is said at the end."""

import pytest

from finetune_api.reasons import Failure, Reason
from finetune_delegate import patience
from finetune_delegate.patience import Passing, patiently, retry_after


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock moves only by sleeping."""
    pauses: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", pauses.append)
    monkeypatch.setattr(patience.time, "monotonic", lambda: sum(pauses))
    monkeypatch.setattr(patience.random, "uniform", lambda low, high: high)
    return pauses


def never(passing: Passing) -> Failure:
    def action() -> None:
        raise passing

    with pytest.raises(Failure) as raised:
        patiently(action, "job-1", 100)
    return raised.value


def test_pauses_grow_to_a_limit(slept: list[float]) -> None:
    end = never(Passing("503 down"))
    assert slept == [1, 2, 4, 8, 16, 32]
    assert (end.reason, end.message) == (
        Reason.PROVIDER_UNAVAILABLE, "job-1: the provider did not answer for 100 s: 503 down",
    )  # fmt: skip


def test_the_providers_own_pause_counts(slept: list[float]) -> None:
    never(Passing("429", retry_after=30))
    assert slept == [30, 30, 30]


def test_an_end_of_its_own_comes_at_its_own_time(slept: list[float]) -> None:
    refused = Failure(Reason.ACCESS_DENIED, "no")
    assert never(Passing("401", end=refused, at_most=5)) is refused
    assert slept == [1, 2]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), ("3600", 300), ("-1", None), ("nan", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), (None, None)],
)
def test_only_a_pause_that_can_be_waited_is_taken(said: str | None, seconds: float | None) -> None:
    assert retry_after({"retry-after": said} if said else {}) == seconds
