"""What a training was predicted to take, beside what it took. Pure."""

from itertools import pairwise
from typing import NamedTuple

from finetune_api.v1alpha1.finetunejob_status import MemoryMeasured, PlanStatus

GIB = 2**30
Line = dict[str, float | str]


class Row(NamedTuple):
    """A figure, in words; None where there is none."""

    name: str
    predicted: str | None
    measured: str | None
    difference: str | None


def compared(plan: PlanStatus | None, peak: MemoryMeasured | None, lines: list[Line]) -> list[Row]:
    """Memory, time and speed, of those that are known on either side."""
    memory = plan.memory if plan else None
    planned = plan.estimated_seconds if plan else None
    seconds, tokens = _taken(lines)
    speed = tokens / planned if planned and tokens else None
    rows = [
        _row(
            "Peak memory, allocated (GiB)",
            memory.allocated_bytes / GIB if memory else None,
            peak.allocated_bytes / GIB if peak else None,
        ),
        _row(
            "Peak memory, reserved (GiB)",
            memory.reserved_bytes / GIB if memory else None,
            peak.reserved_bytes / GIB if peak else None,
        ),
        _row("Training (seconds)", planned, seconds),
        _row("Tokens per second", speed, tokens / seconds if seconds else None),
    ]
    return [row for row in rows if row.predicted or row.measured]


def _row(name: str, predicted: float | None, measured: float | None) -> Row:
    both = predicted and measured
    difference = f"{(predicted or 0) / measured - 1:+.0%}" if both and measured else None
    return Row(name, _shown(predicted), _shown(measured), difference)


def _shown(value: float | None) -> str | None:
    return f"{value:,.4g}" if value else None


def _taken(lines: list[Line]) -> tuple[float | None, float]:
    """Seconds and tokens of the logged steps, interruptions left out: each line has the tokens so far and the speed since the last."""
    steps = [
        (float(line["tokens"]) - float(before.get("tokens", 0)), float(line["tokensPerSecond"]))
        for before, line in pairwise([{}, *lines])
        if "tokens" in line and line.get("tokensPerSecond")
    ]
    seconds = sum(tokens / speed for tokens, speed in steps if tokens > 0)
    return seconds or None, sum(tokens for tokens, _ in steps if tokens > 0)
