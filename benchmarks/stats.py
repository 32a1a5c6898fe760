"""What the figures allow to be said: ratios with bootstrap intervals, and one word for each."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import msgspec

from benchmarks.metrics import METRICS, judged

DRAWS = 2_000
FEW = 3  # rounds, below which nothing is said
ALIKE = 0.05  # an interval within so much of 1 says that there is no difference to speak of
DRIFT = 0.10  # the same code on the same machine at another hour differs by so much
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # Student's t, 97.5 %, by degrees of freedom


class Verdict(msgspec.Struct):
    """`b` over `a`: the ratio, its 95 % interval, and a word: `less`, `more`, `alike`, `noisy`, or `few`.

    `few` is for rounds: there is no interval then.
    """

    profile: str
    metric: str
    a: str
    b: str
    ratio: float
    low: float
    high: float
    word: str


def interval(draw: Callable[[random.Random], float], center: float, count: int, seed: int = 0) -> tuple[float, float]:
    """A 95 % percentile interval, widened for few values (the "expanded percentile" interval of Hesterberg, 2015)."""
    rng = random.Random(seed)
    drawn = sorted(draw(rng) for _ in range(DRAWS))
    wider = math.sqrt(count / (count - 1)) * (_T[count - 2] if count - 2 < len(_T) else 2.0) / 1.96
    low, high = drawn[int(DRAWS * 0.025)], drawn[int(DRAWS * 0.975)]
    return center + (low - center) * wider, center + (high - center) * wider


def around(values: Sequence[float]) -> tuple[float, float]:
    """The interval of their median."""
    return interval(lambda rng: median(rng.choices(values, k=len(values))), median(values), len(values))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def against(a: Sequence[float], b: Sequence[float], *, paired: bool) -> tuple[float, float, float]:
    """Ratio b/a and its interval. Paired: the rounds were measured side by side. All values are above 0."""
    logs_a, logs_b = [math.log(value) for value in a], [math.log(value) for value in b]
    if paired:
        differences = [second - first for first, second in zip(logs_a, logs_b, strict=True)]
        center = mean(differences)

        def draw(rng: random.Random) -> float:
            return mean(rng.choices(differences, k=len(differences)))
    else:
        center = mean(logs_b) - mean(logs_a)

        def draw(rng: random.Random) -> float:
            return mean(rng.choices(logs_b, k=len(logs_b))) - mean(rng.choices(logs_a, k=len(logs_a)))

    low, high = interval(draw, center, min(len(a), len(b)))
    return math.exp(center), math.exp(low), math.exp(high)


def word(low: float, high: float, alike: float = ALIKE) -> str:
    """What an interval of a ratio says."""
    if 1 - alike <= low and high <= 1 + alike:
        return "alike"
    if low > 1:
        return "more"
    if high < 1:
        return "less"
    return "noisy"


def values(series: dict[str, Any], metric: str) -> list[float]:
    """A figure in each round that has it."""
    return [row[metric] for row in series["rounds"] if metric in row]


def verdicts(result: dict[str, Any]) -> list[Verdict]:
    """WebSocket against SSE on each server, in each profile."""
    found = []
    for profile, part in result["profiles"].items():
        for name, over_ws in part["series"].items():
            server, _, transport = name.rpartition(" ")
            over_sse = part["series"].get(f"{server} sse")
            if transport != "ws" or over_sse is None:
                continue
            for metric in judged(profile):
                pairs = [
                    (first[metric], second[metric])
                    for first, second in zip(over_sse["rounds"], over_ws["rounds"], strict=False)
                    if metric in first and metric in second and min(first[metric], second[metric]) > 0
                ]
                if not pairs:
                    continue
                a, b = zip(*pairs, strict=True)
                names = (profile, metric, f"{server} sse", name)
                if len(pairs) < FEW:
                    ratio = median(b) / median(a)
                    found.append(Verdict(*names, ratio, ratio, ratio, "few"))
                    continue
                ratio, low, high = against(a, b, paired=True)
                found.append(Verdict(*names, ratio, low, high, word(low, high)))
    return found


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[Verdict], float]:
    """The second result against the first, and how much slower the machine itself was.

    `more` and `less` are beyond the noise of the rounds, beyond `DRIFT`, and beyond what the machine itself changed by.
    """
    machine = median(after["calibration"]) / median(before["calibration"])
    floor = max(DRIFT, abs(math.log(machine)))
    found = []
    for profile, part in after["profiles"].items():
        for name, series in part["series"].items():
            earlier = before["profiles"].get(profile, {}).get("series", {}).get(name)
            for metric in judged(profile) if earlier else ():
                a, b = ([one for one in values(rows, metric) if one > 0] for rows in (earlier, series))
                if not a or not b:
                    continue
                if min(len(a), len(b)) < FEW:
                    ratio = median(b) / median(a)
                    found.append(Verdict(profile, metric, name, name, ratio, ratio, ratio, "few"))
                    continue
                ratio, low, high = against(a, b, paired=False)
                said = word(low, high, DRIFT)
                if said in {"more", "less"} and abs(math.log(ratio)) < floor:
                    said = "noisy"
                found.append(Verdict(profile, metric, name, name, ratio, low, high, said))
    return found, machine


def better(verdict: Verdict) -> bool:
    """Whether more or less of it is good."""
    return (verdict.word == "less") == METRICS[verdict.metric].less_is_better
