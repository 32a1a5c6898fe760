"""A result in the terminal: a line that moves while it is measured, and tables."""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import Any

from benchmarks.histogram import Histogram
from benchmarks.metrics import METRICS, SHOWN
from benchmarks.stats import Verdict, better, values

_WORDS = {"alike": "no difference", "noisy": "too noisy to say", "few": "too few rounds to say"}


BESIDE = 4  # series


class Progress:
    """How far it is: on a terminal one line that is written over, else a line for each measurement."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int, what: str) -> None:
        """See `suite.Tell`."""
        elapsed = time.monotonic() - self._began
        if self._live:
            filled = 24 * done // total
            bar = "█" * filled + "░" * (24 - filled)
            sys.stderr.write(f"\r\x1b[K{bar} {done}/{total}  {elapsed:3.0f} s  {what}")
        else:
            sys.stderr.write(f"{elapsed:6.1f} s  {done + 1}/{total}  {what}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Clear the line."""
        if self._live:
            sys.stderr.write("\r\x1b[K")


def figure(series: dict[str, Any], metric: str) -> float | None:
    """A figure over all rounds: of a time's quantile that of all its values together, else the rounds' median."""
    kind, _, quantile = metric.partition(".")
    if quantile:
        found = series["histograms"].get(kind)
        return Histogram.from_pairs(found).summary().get(quantile) if found else None
    measured = values(series, metric)
    return median(measured) if measured else None


def said(verdict: Verdict) -> str:
    """A verdict in words."""
    if verdict.word in _WORDS:
        return _WORDS[verdict.word] + ("" if verdict.word == "few" else f" ({_interval(verdict)})")
    return f"{change(verdict)} ({_interval(verdict)})"


def change(verdict: Verdict) -> str:
    """How much more or less."""
    return f"{verdict.ratio:.1f} times" if verdict.ratio >= 2 else f"{abs(verdict.ratio - 1):.0%} {verdict.word}"


def _interval(verdict: Verdict) -> str:
    return f"{verdict.low:.2f} to {verdict.high:.2f}"


def table(result: dict[str, Any], verdicts: list[Verdict]) -> str:
    """All profiles; beside each figure what WebSocket is to SSE on Twinwire."""
    spoken = {(one.profile, one.metric): said(one) for one in verdicts if one.a == "twinwire sse"}
    lines = []
    for profile, part in result["profiles"].items():
        series = part["series"]
        if not series:
            continue
        lines += ["", f"{profile}: {part['about']}"]
        known = [metric for metric in SHOWN[profile] if any(figure(one, metric) is not None for one in series.values())]
        if len(series) > BESIDE:
            lines += _below(series, known)
        else:
            lines += _beside(series, known, {metric: spoken.get((profile, metric), "") for metric in known})
        lines += [f"  ! {name}: {text}" for name, one in series.items() for text in one["warnings"]]
    busiest = max((share for share in _shares(result)), default=0.0)
    lines += ["", f"The load generator was busy at most {busiest:.0%} of the time."]
    lines += [f"! {note}" for note in result["notes"]]
    return "\n".join(lines).lstrip("\n")


def _beside(series: dict[str, Any], metrics: list[str], spoken: dict[str, str]) -> list[str]:
    """A row for each figure, and what there is to say of it."""
    lines = [" " * 34 + "".join(f"{name.replace('twinwire ', ''):>16}" for name in series) + "   WS against SSE"]
    for metric in metrics:
        known = METRICS[metric]
        label = f"{known.label}{', ' if known.unit else ''}{known.unit}"
        cells = "".join(f"{known.show(figure(one, metric)):>16}" for one in series.values())
        lines.append(f"  {label:32}{cells}   {spoken[metric]}".rstrip())
    return lines


def _below(series: dict[str, Any], metrics: list[str]) -> list[str]:
    """A row for each series: there are too many to stand beside each other."""
    heads = [f"{METRICS[metric].label} {METRICS[metric].unit}".strip() for metric in metrics]
    lines = [" " * 20 + "".join(f"  {head:>12}" for head in heads)]
    for name, one in series.items():
        cells = zip(heads, metrics, strict=True)
        shown = "".join(
            f"  {METRICS[metric].show(figure(one, metric)):>{max(12, len(head))}}" for head, metric in cells
        )
        lines.append(f"  {name:18}{shown}")
    return lines


def _shares(result: dict[str, Any]) -> list[float]:
    return [
        share
        for part in result["profiles"].values()
        for series in part["series"].values()
        for share in values(series, "load_share")
    ]


def compared(verdicts: list[Verdict], machine: float) -> str:
    """What has changed between two results."""
    lines = [f"The machine itself took {machine:.2f} times as long for a fixed piece of work."]
    changed = [one for one in verdicts if one.word in {"more", "less"}]
    for one in changed:
        mark = "better" if better(one) else "WORSE"
        lines.append(f"  {mark:7}{one.profile:10}{one.b:16}{METRICS[one.metric].label:28}{said(one)}")
    if not changed:
        lines.append("Nothing has changed beyond noise.")
    counts = {word: sum(one.word == word for one in verdicts) for word in ("alike", "noisy", "few")}
    lines.append(
        f"{len(changed)} of {len(verdicts)} figures changed; {counts['alike']} did not, {counts['noisy']} are too noisy"
        f" to say, {counts['few']} have too few rounds."
    )
    return "\n".join(lines)
