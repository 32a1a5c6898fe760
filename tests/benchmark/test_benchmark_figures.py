"""The figures of the transport benchmark: what is made of what was measured, and a change told from noise."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import framing
from benchmarks.charts import styles
from benchmarks.histogram import Histogram
from benchmarks.metrics import ABOUT, METRICS, SHOWN
from benchmarks.report import page
from benchmarks.schedule import Load, tokens
from benchmarks.stats import Verdict, compare, verdicts
from benchmarks.suite import PROFILES
from benchmarks.terminal import compared, table


def result(scale: float = 1.0, noise: float = 0.02, seed: int = 1, rounds: int = 5) -> dict[str, Any]:
    """A made result: WebSocket has 20 % more CPU than SSE and the same bytes; `scale` is for its CPU alone."""
    rng = random.Random(seed)

    def series(cpu: float) -> dict[str, Any]:
        rows = [{"server_us": cpu * rng.uniform(1 - noise, 1 + noise), "wire_bytes": 200.0} for _ in range(rounds)]
        times = Histogram.of([rng.randrange(10**5, 10**7) for _ in range(2000)])
        kinds = {"delivery": times.pairs()}
        return {"rounds": rows, "histograms": kinds, "timeline": [[0, 50.0, 900.0], [50, 60.0, 950.0]], "warnings": []}

    both = {"twinwire sse": series(10.0), "twinwire ws": series(12.0 * scale)}
    return {
        "version": 1,
        "environment": {"started": "", "python": "", "packages": {}, "processor": "", "processors": 2, "kernel": ""},
        "settings": {"rounds": rounds, "seed": seed},
        "calibration": [3.0] * rounds,
        "profiles": {"chat": {"about": "<b>", "series": both}},
        "notes": ["1 < 2"],
    }


def said(found: list[Verdict]) -> dict[tuple[str, str], str]:
    """The word for each figure and series."""
    return {(one.metric, one.b): one.word for one in found}


def test_a_change_and_noise() -> None:
    """A fifth more CPU is a change; the same within noise is none; and a slower machine explains a change away."""
    found, machine = compare(result(), result(scale=1.3, seed=2))
    assert machine == 1
    assert said(found)["server_us", "twinwire ws"] == "more"
    assert said(found)["server_us", "twinwire sse"] == "alike"
    assert said(found)["wire_bytes", "twinwire ws"] == "alike"
    assert re.search(r"WORSE +chat +twinwire ws +server CPU per token +\d\d% more", compared(found, machine))
    assert "Nothing has changed beyond noise." in compared(*compare(result(), result(seed=3)))
    assert said(compare(result(noise=0.5), result(noise=0.5, seed=2))[0])["server_us", "twinwire sse"] == "noisy"
    slower = result(scale=1.3, seed=2) | {"calibration": [4.5] * 5}
    assert said(compare(result(), slower)[0])["server_us", "twinwire ws"] == "noisy"
    assert said(compare(result(rounds=2), result(rounds=2))[0])["server_us", "twinwire sse"] == "few"


def test_verdicts() -> None:
    """WebSocket is told apart from SSE where the rounds allow it, and not where they do not."""
    assert said(verdicts(result())) == {("server_us", "twinwire ws"): "more", ("wire_bytes", "twinwire ws"): "alike"}
    (ratio,) = [one for one in verdicts(result()) if one.metric == "server_us"]
    assert 1.1 < ratio.low < ratio.ratio < ratio.high < 1.3
    assert said(verdicts(result(noise=0.6)))["server_us", "twinwire ws"] == "noisy"
    assert said(verdicts(result(rounds=2)))["server_us", "twinwire ws"] == "few"


def test_the_page_is_safe_and_whole() -> None:
    """What the page and the table show is what was measured, escaped."""
    made = result()
    html = page(made)
    assert "1 &lt; 2" in html
    assert "<b>" not in html
    assert "<strong>SSE is better" in html
    assert 'role="img"><title>chat: delivery</title>' in html
    assert "prefers-color-scheme: dark" in html
    assert "20" in next(line for line in table(made, verdicts(made)).splitlines() if "server CPU" in line)
    several = styles(["a sse", "a ws", "b sse"])
    assert several["a sse"].color == several["a ws"].color != several["b sse"].color
    assert several["a ws"].dashed


def test_every_profile_is_described() -> None:
    """Each profile has its figures and its line, and each figure a metric."""
    assert set(PROFILES) == set(SHOWN) == set(ABOUT)
    assert {name for names in SHOWN.values() for name in names} <= set(METRICS)


async def test_the_same_seed_is_the_same_run() -> None:
    """Tokens have the rate and size that were asked for, and come again with their seed; each tells when it was due."""
    load = Load(rate=1000, count=4000, size=10, seed=5)
    plan = list(load.plan())
    assert plan == list(Load.of(load.message()).plan()) != list(Load(rate=1000, count=4000, size=10, seed=6).plan())
    assert plan[-1][0] == pytest.approx(4.0, rel=0.15)
    assert sum(size for _, size in plan) / 4000 == pytest.approx(10, rel=0.1)
    texts = [text async for text in tokens(Load(rate=1000, count=30))]
    stamps = [int(text.split()[0].removeprefix("@")) for text in texts]
    offsets = [due for due, _ in Load(rate=1000, count=30).plan()]
    assert [stamp - stamps[0] for stamp in stamps] == pytest.approx([due * 1e9 for due in offsets], abs=2)


def test_a_histogram_is_exact_enough() -> None:
    """Values keep to 1/64, quantiles need enough values beyond them, and two halves are the whole."""
    rng = random.Random(1)
    values = [int(10 ** rng.uniform(0, 10)) for _ in range(5000)]
    whole = Histogram.of(values)
    for value in values:
        assert abs(Histogram.value(Histogram.bucket(value)) - value) <= value / 64
    for rank in (0.5, 0.9, 0.99):
        assert whole.quantile(rank) == pytest.approx(sorted(values)[int(rank * 5000) - 1], rel=1 / 50)
    assert list(whole.summary()) == ["p50", "p90", "p99", "max"]
    half = Histogram.of(values[:2500])
    half.add(Histogram.from_pairs(Histogram.of(values[2500:]).pairs()))
    assert half.pairs() == whole.pairs()
    assert Histogram.of([-5]).cdf() == [(0, 1.0)]


@pytest.mark.parametrize(
    ("read", "data", "expected"),
    [
        (framing.chunks, b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n", (10, b"helloyou")),
        (framing.chunks, b"5\r\nhello\r\n5\r\nhal", (5, b"hello")),
        (framing.messages, b"\x81\x02hi\x81\x7e\x00\x7f" + b"x" * 127, (6, b"hi\n" + b"x" * 127)),
        (framing.messages, b"\x81\x02hi\x81\x05yo", (2, b"hi")),
    ],
)
def test_framing(read: Callable[[bytes], tuple[int, bytes]], data: bytes, expected: tuple[int, bytes]) -> None:
    """Framing is told from what is in it; what is cut off does not count."""
    assert read(data) == expected
