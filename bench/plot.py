"""A small picture of lines, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 190, 40, 48  # margins; the names of the lines stand in the right one
COLOURS = ("#1f6feb", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#57606a")
NAME_PX = 16  # the least between two names
STEPS = (1, 2, 5, 10)


def lines(title: str, x_name: str, y_name: str, drawn: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """`drawn`: points of each line, x above zero and the same for all, on a scale of powers of ten; y from zero."""
    xs = [x for x, _ in next(iter(drawn.values()))]
    step, top = _scale(max(y for points in drawn.values() for _, y in points))
    low, high = math.log10(min(xs)), math.log10(max(xs))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low) / ((high - low) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [_text(LEFT, 22, title, "font-weight='bold'"), _text(LEFT, HEIGHT - 10, x_name), _text(8, TOP - 4, y_name)]
    for number in range(round(top / step) + 1):
        (left, y), (right, _) = at(min(xs), number * step), at(max(xs), number * step)
        parts.append(f"<path d='M{left:.1f} {y:.1f}H{right:.1f}' stroke='#d0d7de'/>")
        parts.append(_text(left - 6, y + 4, f"{number * step:g}", "text-anchor='end'"))
    parts += [_text(at(x, 0)[0], HEIGHT - BOTTOM + 18, f"{x:,.0f}", "text-anchor='middle'") for x in xs]
    last = -math.inf
    from_the_top = sorted(drawn.items(), key=lambda line: -line[1][-1][1])
    for colour, (name, points) in zip(COLOURS, from_the_top, strict=False):
        placed = [at(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in placed]
        last = max(last + NAME_PX, placed[-1][1] + 4)
        parts.append(_text(placed[-1][0] + 10, last, name, f"fill='{colour}'"))
    size = f"width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} font-family='sans-serif' font-size='12'>"
    return "\n".join([head, f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>", *parts, "</svg>", ""])


def _scale(most: float) -> tuple[float, float]:
    """Distance of the lines of the grid, at most six, and the highest of them."""
    power = 10 ** math.floor(math.log10(most / 5))
    step = next(factor * power for factor in STEPS if factor * power * 5 >= most)
    return step, math.ceil(most / step) * step


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(text)}</text>"
