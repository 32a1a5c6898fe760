"""The transport benchmark measures what it says it does, keeps what it has, and tells a change from noise."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving import serving

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import framing
from benchmarks.__main__ import writable
from benchmarks.charts import styles
from benchmarks.histogram import Histogram
from benchmarks.lossy import AGAIN, DELAY
from benchmarks.metrics import ABOUT, METRICS, SHOWN
from benchmarks.report import page
from benchmarks.schedule import Load, tokens
from benchmarks.stats import Verdict, compare, verdicts
from benchmarks.suite import PROFILES, descriptors
from benchmarks.synthetic import llm
from benchmarks.targets import Unusable, python_of
from benchmarks.terminal import compared, table

ROOT = Path(__file__).parents[1]


def benchmark(*flags: str | Path, timeout: float = 50) -> tuple[int, str, str]:
    """The command's exit code, output and errors."""
    command = [sys.executable, "-m", "benchmarks", *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


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


def test_it_runs_and_keeps_what_it_has(tmp_path: Path) -> None:
    """Two profiles and a peer, for a moment: the JSON has figures of both transports, the page needs nothing else."""
    code, out, err = benchmark(
        "--profiles", "chat,cancel", "--rounds", "1", "--seconds", "0.3", "--peer", "bare", "--out", tmp_path
    )
    assert code == 0, err
    made = json.loads((tmp_path / "result.json").read_bytes())
    assert set(made["profiles"]) == {"chat", "cancel"}
    assert made["notes"] == []
    assert {"started", "python", "packages", "processor", "processors", "kernel"} <= set(made["environment"])
    assert (made["settings"]["seed"], len(made["calibration"])) == (1, 1)
    for name in ("twinwire sse", "twinwire ws", "bare sse", "bare ws"):
        chat = made["profiles"]["chat"]["series"][name]
        assert chat["warnings"] == []
        (row,) = chat["rounds"]
        assert row["tokens"] == 30
        assert 0 < row["load_share"] < 1
        assert row["server_us"] > 0
        assert 0 < row["framing_bytes"] < row["wire_bytes"]
        assert Histogram.from_pairs(chat["histograms"]["delivery"]).total == 30
        cancel = made["profiles"]["cancel"]["series"][name]
        assert Histogram.from_pairs(cancel["histograms"]["cancel_close"]).total == 20
    assert "delivery, p50" in out
    assert "too few rounds to say" in out
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == html.count("</svg>") >= 3
    assert re.findall(r"(?:src|href)=|url\(|@import|<script|https?://", html) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_measured_is_kept(number: int, tmp_path: Path) -> None:
    """Ended early, it still writes what it has measured, and says that there should be more."""
    command = [sys.executable, "-m", "benchmarks", "--profiles", "resume", "--rounds", "100", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " 4/" in line:
                process.send_signal(number)
                break
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "! ended early" in out
    kept = json.loads((tmp_path / "result.json").read_bytes())
    assert 1 <= len(kept["profiles"]["resume"]["series"]["twinwire sse"]["rounds"]) < 100
    assert "ended early" in (tmp_path / "report.html").read_text()


def test_a_bad_network_loses_nothing(tmp_path: Path) -> None:
    """Through the bad network every token comes in the end, late by what the network takes, on both transports."""
    code, _, err = benchmark("--profiles", "lossy", "--rounds", "1", "--seconds", "0.4", "--out", tmp_path)
    assert code == 0, err
    for series in json.loads((tmp_path / "result.json").read_bytes())["profiles"]["lossy"]["series"].values():
        assert 1000 <= series["rounds"][0]["tokens"] <= 1005  # one that was cut in its middle may be counted twice
        assert "failed" not in " ".join(series["warnings"])
        assert series["rounds"][0]["reconnects"] > 0
        delivery = Histogram.from_pairs(series["histograms"]["delivery"])
        assert delivery.quantile(0.0) > DELAY * 0.95e9
        assert delivery.quantile(1.0) > AGAIN * 1e9


async def test_a_server_that_runs(tmp_path: Path) -> None:
    """With --url it measures that server, without what only its own can tell."""
    async with serving({"llm": llm}, max_runs=5000) as server:
        flags = ("--url", server.url, "--profiles", "chat,resume,tls", "--rounds", "1", "--seconds", "0.3")
        code, _, err = await asyncio.to_thread(benchmark, *flags, "--out", tmp_path)
    assert code == 0, err
    made = json.loads((tmp_path / "result.json").read_bytes())["profiles"]
    assert set(made["chat"]["series"]) == set(made["resume"]["series"]) == {"twinwire sse", "twinwire ws"}
    assert made["tls"]["series"] == {}
    (row,) = made["chat"]["series"]["twinwire ws"]["rounds"]
    assert "delivery.max" in row
    assert "server_us" not in row


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--url", "http://127.0.0.1:1"], "--url: nothing answers at http://127.0.0.1:1: "),
        (["--url", "ftp://here"], "--url: 'ftp://here' is not of the form"),
        (["--url", "http://127.0.0.1:x"], "--url: 'http://127.0.0.1:x' is not of the form"),
        (["--profiles", "chat,chess"], "--profiles: 'chess' is none of first, chat"),
        (["--peer", "nobody"], "--peer: 'nobody' is none of bare"),
        (["--rounds", "0"], "argument --rounds: '0' is no number"),
        (["--seconds", "nan"], "argument --seconds: 'nan' is no number"),
        (["--compare", "nowhere.json", "nowhere.json"], "nowhere.json: No such file"),
        (["--compare", "README.md", "README.md"], "README.md: not a result"),
        (["--out", "README.md"], "--out: README.md: "),
    ],
)
def test_bad_input_is_one_line(flags: list[str], line: str) -> None:
    """What cannot be done is told in one line, and nothing is measured."""
    code, out, err = benchmark(*flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"benchmarks: {line}")
    assert err.count("\n") == 1


def test_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Too few open files, a peer that cannot be installed, a folder that cannot be made: each says so."""
    with pytest.raises(Unusable, match=r"^1000000000000 open files are needed and \d+ are allowed"):
        descriptors(10**12)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unusable, match=r"^--peer aiohttp: it is installed with uv, which is not here$"):
        python_of("aiohttp")
    (tmp_path / "file").touch()
    with pytest.raises(Unusable, match=r"^--out: "):
        writable(tmp_path / "file" / "below")


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
    assert 'role="img"><title>chat: delivery</title>' in html
    assert "prefers-color-scheme: dark" in html
    assert "20" in next(line for line in table(made, verdicts(made)).splitlines() if "server CPU" in line)
    several = styles(["a sse", "a ws", "b sse"])
    assert several["a sse"].color == several["a ws"].color != several["b sse"].color
    assert several["a ws"].dashed


def test_a_report_is_drawn_again(tmp_path: Path) -> None:
    """The results that are kept here can be drawn, from the JSON alone, and compared."""
    for kept in sorted((ROOT / "benchmarks/results").glob("*.json")):
        (tmp_path / kept.name).write_bytes(kept.read_bytes())
        assert benchmark("--html", tmp_path / kept.name) == (0, "", "")
        assert "twinwire ws" in (tmp_path / kept.name).with_suffix(".html").read_text()
        code, out, _ = benchmark("--compare", kept, kept)
        assert (code, "Nothing has changed beyond noise." in out) == (0, True)
    assert len(list(tmp_path.glob("*.html"))) == 2


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
