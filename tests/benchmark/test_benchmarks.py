"""The transport benchmark measures what it says it does, keeps what it has, and tells a change from noise."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support.serving import serving

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.__main__ import writable
from benchmarks.histogram import Histogram
from benchmarks.lossy import AGAIN, DELAY
from benchmarks.metrics import SHOWN
from benchmarks.processes import program
from benchmarks.suite import PROFILES, descriptors
from benchmarks.synthetic import llm
from benchmarks.targets import Unusable, python_of
from benchmarks.terminal import figure

ROOT = Path(__file__).parents[2]


def benchmark(*flags: str | Path, timeout: float = 50) -> tuple[int, str, str]:
    """The command's exit code, output and errors."""
    command = [sys.executable, "-m", "benchmarks", *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


def warnings(series: dict[str, Any]) -> list[str]:
    """What there is to warn of, but of a machine that is busy with other tests."""
    return [text for text in series["warnings"] if not text.startswith(("other programs", "the load generator"))]


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
        assert warnings(chat) == []
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


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
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


@pytest.mark.full
def test_a_bad_network_loses_nothing(tmp_path: Path) -> None:
    """Through the bad network every token comes in the end, late by what the network takes, on both transports."""
    code, _, err = benchmark("--profiles", "lossy", "--rounds", "1", "--seconds", "0.4", "--out", tmp_path)
    assert code == 0, err
    for series in json.loads((tmp_path / "result.json").read_bytes())["profiles"]["lossy"]["series"].values():
        assert series["rounds"][0]["tokens"] == 1000
        assert warnings(series) == []
        assert series["rounds"][0]["reconnects"] > 0
        delivery = Histogram.from_pairs(series["histograms"]["delivery"])
        assert delivery.quantile(0.0) > DELAY * 0.95e9
        assert delivery.quantile(1.0) > AGAIN * 1e9


async def test_a_bad_network_keeps_the_order() -> None:
    """Many small pieces come through it late, some of them very late, and in order, until it cuts the connection."""
    count = 600

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(count):
            if not writer.is_closing():
                writer.write(b"%06d %020d\n" % (number, time.monotonic_ns()))
                await asyncio.sleep(0.0005)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with program(sys.executable, "-m", "benchmarks.lossy", str(port), "1") as proxy:

        async def heard() -> list[tuple[int, float]]:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.line))
            came: list[tuple[int, float]] = []
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    number, sent = (await reader.readuntil(b"\n")).split()
                    came.append((int(number), (time.monotonic_ns() - int(sent)) / 1e9))
            writer.close()
            return came

        every = await asyncio.gather(*(heard() for _ in range(40)))
    server.close()
    assert [came for came in every if [number for number, _ in came] != list(range(len(came)))] == []
    lengths = [len(came) for came in every]
    assert max(lengths) > 100
    assert min(lengths) < count
    late = [delay for came in every for _, delay in came]
    assert min(late) > DELAY * 0.95
    assert max(late) > AGAIN


@pytest.mark.full
def test_every_profile_measures_what_it_shows(tmp_path: Path) -> None:
    """Each profile that has no test of its own has all its figures, on both transports, and nothing to warn of."""
    names = sorted(set(PROFILES) - {"chat", "cancel", "resume", "lossy"})
    code, _, err = benchmark("--profiles", ",".join(names), "--rounds", "1", "--seconds", "0.3", "--out", tmp_path)
    assert code == 0, err
    made = json.loads((tmp_path / "result.json").read_bytes())
    assert made["notes"] == []
    for name in names:
        for transport in ("sse", "ws"):
            series = made["profiles"][name]["series"][f"twinwire {transport}"]
            rare = ("p99", "p99.9")  # there are too few for them
            assert [one for one in SHOWN[name] if figure(series, one) is None and not one.endswith(rare)] == []
            assert warnings(series) == []


@pytest.mark.full
@pytest.mark.timeout(400)
def test_counts_are_the_same_again(tmp_path: Path) -> None:
    """Counted twice, instructions per token differ by less than 0.5 %, and system calls and bytes hardly at all."""
    line = re.compile(r"^\| relay-sse \| 1 run, 1 follower \| [\d,]+ \| \d\.\d\d \| \d+ \| \d+ µs \|$", re.MULTILINE)
    taken = []
    for name in ("first", "second"):
        code, out, err = benchmark("--exact", "--profiles", "relay-sse", "--out", tmp_path / name, timeout=180)
        assert code == 0, err
        assert line.search(out)
        taken.append(json.loads((tmp_path / name / "exact.json").read_bytes())["rows"]["relay-sse"])
    first, second = taken
    assert second["instructions"] == pytest.approx(first["instructions"], rel=0.005)
    assert second["calls"] == pytest.approx(first["calls"], abs=0.2)
    assert second["bytes"] == pytest.approx(first["bytes"], abs=1)


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
        (["--exact", "--profiles", "chess"], "--profiles: 'chess' is none of relay-sse"),
        (["--rounds", "0"], "argument --rounds: '0' is no number"),
        (["--seconds", "nan"], "argument --seconds: 'nan' is no number"),
        (["--compare", "nowhere.json", "nowhere.json"], "nowhere.json: No such file"),
        (["--compare", "README.md", "README.md"], "README.md: not a result"),
        (["--compare", "clients/js/package.json", "README.md"], "clients/js/package.json: not a result"),
        (
            ["--compare", "benchmarks/results/transports.json", "benchmarks/results/peers.json"],
            "--compare: the two have",
        ),
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


def test_a_report_is_drawn_again(tmp_path: Path) -> None:
    """The results that are kept here can be drawn, from the JSON alone, and compared."""
    for kept in (ROOT / "benchmarks/results/peers.json", ROOT / "benchmarks/results/transports.json"):
        (tmp_path / kept.name).write_bytes(kept.read_bytes())
        assert benchmark("--html", tmp_path / kept.name) == (0, "", "")
        html = (tmp_path / kept.name).with_suffix(".html").read_text()
        assert ("aiohttp WS" if kept.stem == "peers" else ">WebSocket<") in html
        code, out, _ = benchmark("--compare", kept, kept)
        assert (code, "Nothing has changed beyond noise." in out) == (0, True)
    assert len(list(tmp_path.glob("*.html"))) == 2
