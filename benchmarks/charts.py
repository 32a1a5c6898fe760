"""Plots as inline SVG, made of strings: curves with a tail one can see, delivery over time, bars with intervals.

They take their colours from the page's custom properties (`--s0` to `--s6`, `--ink`, `--grid`), so that they are dark
where the page is. Each has a title and a description for those who do not see it; the tables have all figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 42
_SHARES = (0.0, 0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Style:
    """How a series looks everywhere, and what it is called."""

    label: str
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A figure, its interval, and how it is written."""

    name: str
    value: float
    low: float
    high: float
    text: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """One server's transports have colours of their own; of several each has one, and WebSocket is dashed."""
    servers = list(dict.fromkeys(name.rpartition(" ")[0] for name in names))
    found = {}
    for name in names:
        server, _, transport = name.rpartition(" ")
        over_ws = transport == "ws"
        if len(servers) == 1:
            found[name] = Style("WebSocket" if over_ws else "SSE", f"var(--s{int(over_ws)})")
        else:
            found[name] = Style(f"{server} {transport.upper()}", f"var(--s{servers.index(server) % 7})", over_ws)
    return found


def milliseconds(value: float) -> str:
    """A tick's text."""
    return f"{value:g}"


class _Log:
    """A logarithmic axis over some pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._high = math.log10(low), math.log10(max(high, low * 1.5))
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(max(value, 10**self._low)) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of each decade, or the decades alone where they are many."""
        steps = (1, 2, 5) if self._high - self._low < 2.5 else (1,)
        decades = range(math.floor(self._low), math.ceil(self._high) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        return [tick for tick in ticks if self._low <= math.log10(tick) <= self._high]


def _svg(title: str, description: str, parts: Sequence[str], height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )


def _line(style: Style, points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if style.dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{style.color}" stroke-width="2"{dash}/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="grid"/>'


def _labels(names: Iterable[str], look: Mapping[str, Style]) -> str:
    return ", ".join(look[name].label for name in names)


def swatch(style: Style) -> str:
    """A piece of a series' line, for a legend."""
    return f'<svg viewBox="0 0 28 8" aria-hidden="true">{_line(style, [(0, 4), (28, 4)])}</svg>'


def curves(title: str, cdfs: Mapping[str, Sequence[tuple[float, float]]], look: Mapping[str, Style]) -> str:
    """Cumulative distributions of milliseconds. Half of the height is for what lies above 90 %, each nine as high."""
    values = [value for points in cdfs.values() for value, _ in points if value > 0]
    x = _Log(min(values), max(values), LEFT, WIDTH - RIGHT)
    floor = HEIGHT - BOTTOM

    def y(share: float) -> float:
        nines = min(-math.log10(max(1 - share, 1e-9)), 3.3)
        return floor - (floor - TOP) * (share / 1.8 if share < 0.9 else 0.5 + (nines - 1) / 4.6)

    parts = [_rule(x(tick), TOP, x(tick), floor) + _text(x(tick), floor + 18, milliseconds(tick)) for tick in x.ticks()]
    parts += [
        _rule(LEFT, y(share), WIDTH - RIGHT, y(share)) + _text(LEFT - 6, y(share) + 4, f"{share * 100:g} %", "end")
        for share in _SHARES
    ]
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, "milliseconds, and the share that took no longer", "end"))
    for name, points in cdfs.items():
        known = [(x(value), y(share)) for value, share in points]
        parts.append(_line(look[name], [(known[0][0], floor), *known]))
    return _svg(title, f"Cumulative distribution for {_labels(cdfs, look)}; further left is better.", parts)


def timeline(title: str, rows: Mapping[str, Sequence[Sequence[float]]], look: Mapping[str, Style]) -> str:
    """Medians over time; of up to two, bands up to the largest value. Rows are `[ms, p50 us, largest us]`."""
    few = len(rows) <= 2
    every = [row for part in rows.values() for row in part]
    y = _Log(
        max(min(row[1] for row in every), 1) / 1e3,
        max(row[2 if few else 1] for row in every) / 1e3,
        HEIGHT - BOTTOM,
        TOP,
    )
    end = max(row[0] for row in every) or 1
    floor = HEIGHT - BOTTOM

    def x(at: float) -> float:
        return LEFT + at / end * (WIDTH - RIGHT - LEFT)

    parts = [
        _rule(LEFT, y(tick), WIDTH - RIGHT, y(tick)) + _text(LEFT - 6, y(tick) + 4, milliseconds(tick), "end")
        for tick in y.ticks()
    ]
    step = next((step for step in (100, 200, 500, 1000, 2000, 5000) if end / step <= 6), 10_000)
    parts += [_text(x(at), floor + 18, f"{at / 1000:g} s") for at in range(0, int(end) + 1, step)]
    for name, part in rows.items():
        lower = [(x(row[0]), y(row[1] / 1e3)) for row in part]
        if few:
            upper = [(x(row[0]), y(row[2] / 1e3)) for row in part]
            band = " ".join(f"{px:.1f},{py:.1f}" for px, py in [*lower, *reversed(upper)])
            parts.append(f'<polygon points="{band}" fill="{look[name].color}" opacity="0.13"/>')
        parts.append(_line(look[name], lower))
    parts.append(
        _text(LEFT, HEIGHT - 4, f"milliseconds: the median{', and the band up to the largest' if few else ''}", "start")
    )
    return _svg(title, f"Over the last round, for {_labels(rows, look)}; lower is better.", parts)


def bars(title: str, given: Sequence[Bar], look: Mapping[str, Style]) -> str:
    """One figure of several series, from 0; a whisker is the 95 % interval of its median over the rounds."""
    most = max(max(bar.high, bar.value) for bar in given) or 1.0
    start, end, step = 30 + 9 * max(len(look[bar.name].label) for bar in given), WIDTH - 90, 26
    parts = []
    for number, bar in enumerate(given):
        y = 6 + number * step
        width = bar.value / most * (end - start)
        style = look[bar.name]
        fill = f'fill="{style.color}"' + (' fill-opacity="0.55"' if style.dashed else "")
        hint = f"{style.label}: {bar.text}"
        parts.append(_text(start - 8, y + 13, style.label, "end", "name"))
        parts.append(
            f'<rect x="{start}" y="{y}" width="{max(width, 1):.1f}" height="18" rx="3" {fill}>'
            f"<title>{escape(hint)}</title></rect>"
        )
        low, high = (start + max(edge, 0) / most * (end - start) for edge in (bar.low, bar.high))
        if bar.high > bar.low:
            parts.append(
                f'<path d="M{low:.1f} {y + 9}H{high:.1f}M{low:.1f} {y + 5}v8M{high:.1f} {y + 5}v8" class="whisker"/>'
            )
        parts.append(_text(max(start + width, high) + 6, y + 13, bar.text, "start", "value"))
    figures = ", ".join(f"{look[bar.name].label} {bar.text}" for bar in given)
    return _svg(title, f"{figures}.", parts, 6 + len(given) * step)
