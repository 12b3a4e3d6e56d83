"""Small pictures of a row of numbers: a line of block characters, and a drawing for a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH, HEIGHT, TOP = 640, 110, 22


def sparkline(values: Sequence[float | None]) -> str:
    """One character a value, from 0 to the highest; a blank where there is none."""
    highest = max((value for value in values if value is not None), default=0.0)
    scale = (len(BLOCKS) - 1) / highest if highest > 0 else 0.0
    return "".join(" " if v is None else BLOCKS[round(max(0.0, v) * scale)] for v in values)


def svg(title: str, values: Sequence[float | None], highest: str, color: str) -> str:
    """An area under a line, from 0 to the highest, with gaps where there is no value.

    Args:
        highest: the highest value in words.
    """
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    step = WIDTH / max(1, len(values) - 1)
    floor = HEIGHT - 4
    parts: list[str] = []
    for first, run in _runs(values):
        points = [
            (step * (first + n), floor - (floor - TOP) * max(0.0, value) / top)
            for n, value in enumerate(run)
        ]
        if len(points) == 1:  # a line of one point would not be seen
            points.append((points[0][0] + step, points[0][1]))
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        area = f"{points[0][0]:.1f},{floor} {line} {points[-1][0]:.1f},{floor}"
        parts.append(f'<polygon points="{area}" fill="{color}" opacity="0.25"/>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
    text = 'font-family="sans-serif" font-size="13" fill="#8a94a6"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<text x="2" y="14" {text}>{escape(title)}</text>'
        f'<text x="{WIDTH - 2}" y="14" text-anchor="end" {text}>max {escape(highest)}</text>'
        f'<line x1="0" x2="{WIDTH}" y1="{floor}" y2="{floor}" stroke="#8a94a6" stroke-width="1"/>'
        f"{''.join(parts)}</svg>"
    )


def data_uri(picture: str) -> str:
    """The drawing as an address that holds it."""
    return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()


def _runs(values: Sequence[float | None]) -> list[tuple[int, list[float]]]:
    """The stretches that have values, each with the number of its first."""
    runs: list[tuple[int, list[float]]] = []
    begun = False
    for number, value in enumerate(values):
        if value is None:
            begun = False
            continue
        if not begun:
            runs.append((number, []))
            begun = True
        runs[-1][1].append(value)
    return runs
