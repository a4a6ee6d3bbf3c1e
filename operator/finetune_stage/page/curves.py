"""A curve as inline SVG; its colours are the page's. A library would bring a megabyte of fonts and its own idea of dark."""

from collections.abc import Callable
from html import escape
from math import floor, log10

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 26
Points = list[tuple[float, float]]


def _counted(step: float) -> str:
    return f"{step:,.0f}"


def curve(title: str, points: Points, name: Callable[[float], str] = _counted) -> str:
    """The points, joined, over their steps, which ``name`` writes; the last value stands beside the title. Empty without two points."""
    if len(points) < 2:
        return ""
    ticks = _ticks([y for _, y in points])
    steps, low, high = (points[0][0], points[-1][0]), ticks[0], ticks[-1]
    places = [(_across(x, *steps), _up(y, low, high)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    floor_y = HEIGHT - BOTTOM
    area = f"{places[0][0]:.1f},{floor_y} {line} {places[-1][0]:.1f},{floor_y}"
    last = points[-1][1]
    return "".join(
        [
            f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}, last {short(last)}">',
            f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
            f'<text class="last" x="{WIDTH - RIGHT}" y="18" text-anchor="end">{short(last)}</text>',
            *(_grid_line(value, _up(value, low, high)) for value in ticks),
            *(_step_label(name(step), _across(step, *steps)) for step in (steps[0], sum(steps) / 2, steps[1])),
            f'<polygon class="area" points="{area}"/><polyline class="line" points="{line}"/>',
            f'<circle class="dot" cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="3.5"/></svg></figure>',
        ]
    )


def short(value: float) -> str:
    """Four digits, or a whole number with commas up to a million."""
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1_000_000 else f"{value:.4g}"


def _across(value: float, first: float, last: float) -> float:
    return LEFT + (value - first) / max(1e-12, last - first) * (WIDTH - LEFT - RIGHT)


def _up(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / max(1e-12, high - low) * (HEIGHT - TOP - BOTTOM)


def _ticks(values: list[float]) -> list[float]:
    """Three to six round numbers that hold the values between them."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    exponent = floor(log10(span / 4))
    step = next(size for factor in (1, 2, 2.5, 5, 10) if (size := factor * 10.0**exponent) * 4 >= span)
    first = floor(low / step)
    count = next(n for n in range(1, 8) if (first + n) * step >= high - 1e-9 * span)
    return [(first + n) * step for n in range(count + 1)]


def _grid_line(value: float, y: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
    )


def _step_label(step: str, x: float) -> str:
    anchor = "start" if x <= LEFT else "end" if x >= WIDTH - RIGHT else "middle"
    return f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{step}</text>'
