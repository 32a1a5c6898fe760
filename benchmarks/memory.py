"""The memory that the server takes, against what its settings say: a full log, conversations, and silent runs.

    uv run python -m benchmarks.memory [--log 64] [--runs 2000] [--json | --out DIR]

Memory is resident memory of a server of its own, over what it had before, when it had served a few of the same.

- `log`: runs of 500 events, of 200 bytes and of 4 KiB each, end until the log in memory is full three times over. The
  figure is what that has added, as a share of `--log-bytes` (`--log` MiB).
- `live`: the same for one run of small events that goes on, and fills the log to nine tenths. It has its text besides,
  which `--live-bytes` counts.
- `conversations`: what full conversations add, as a share of `--sessions-bytes` (half of `--log` MiB).
- `silent`: runs that say nothing, with a follower each: kB for each run and its connection.
"""

from __future__ import annotations

import argparse
import http.client
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import kept
from benchmarks.fanout import Sinks
from benchmarks.idle import connected
from benchmarks.load import masked
from benchmarks.processes import Program, step_aside, twinwire
from benchmarks.relay import websocket
from twinwire.log.tail import RECORD_BYTES

MB = 2**20
EVENTS = 500  # of each run that fills the log
SIZES = (200, 4096)  # bytes of an event
OFTEN = 3  # times that the log is filled
AT_ONCE = 8  # runs
TURN = 400  # bytes of an answer
SETTLE = 3.0  # seconds in which the allocator gives back what is free
Report = dict[str, Any]


class Client:
    """Starts runs of the agent `bulk`, a few at a time, and hears of their ends from the server's metrics."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def _ask(self, method: str, path: str, body: object = None) -> bytes:
        headers = {"content-type": "application/json"}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return text

    def start(self, count: int, size: int, *, stay: bool = False, **fields: str) -> str:
        """Start a run of so many events, each of this size, and return its id."""
        message = json.dumps({"count": count, "size": size, "stay": stay})
        told = self._ask("POST", "/runs", {"message": message, "on_disconnect": "continue", **fields})
        return str(json.loads(told)["run_id"])

    def last(self, run_id: str) -> int:
        """Return the number of a run's newest event."""
        return int(json.loads(self._ask("GET", f"/runs/{run_id}"))["last"])

    def figure(self, name: str) -> float:
        """Return the sum of a metric's values."""
        lines = self._ask("GET", "/metrics").decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def settle(self) -> None:
        """Wait until no run goes on."""
        while self.figure("twinwire_runs_live"):
            time.sleep(0.005)

    def fill(self, runs: int, count: int, size: int) -> None:
        """Have so many runs end."""
        for number in range(runs):
            self.start(count, size)
            if number % AT_ONCE == AT_ONCE - 1:
                self.settle()
        self.settle()


@contextmanager
def serving(*flags: str) -> Iterator[tuple[Program, Client]]:
    """A server with the agent `bulk`, which has had a few runs."""
    often = ("--run-timeout", "100000", "--max-runs", "100000", "--run-bytes", "1GiB")
    with twinwire("benchmarks.agents:bulk", *often, *flags) as (server, port):
        client = Client(port)
        client.fill(AT_ONCE, 50, 200)
        time.sleep(SETTLE)
        yield server, client


def grown(server: Program, work: Callable[[], None]) -> int:
    """Return the bytes that this work has added to the server's memory."""
    before = server.rss()
    work()
    time.sleep(SETTLE)
    return server.rss() - before


def full_log(size: int, log_bytes: int) -> float:
    """Return what a log that ended runs have filled takes, as a share of `log_bytes`."""
    runs = OFTEN * log_bytes // (EVENTS * size)
    with serving("--log-bytes", str(log_bytes)) as (server, client):
        return grown(server, lambda: client.fill(runs, EVENTS, size)) / log_bytes


def live_log(log_bytes: int) -> float:
    """Return what a log with one long run takes, whose events come to nine tenths of its bound, as a share of it."""
    count = log_bytes * 9 // 10 // (SIZES[0] + RECORD_BYTES)
    with serving("--log-bytes", str(log_bytes)) as (server, client):

        def fill() -> None:
            run_id = client.start(count, SIZES[0], stay=True)
            while client.last(run_id) < count:
                time.sleep(0.05)

        return grown(server, fill) / (log_bytes * 9 // 10)


def conversations(sessions_bytes: int) -> float:
    """Return what conversations take that have filled their bound, as a share of it."""
    flags = ("--log-bytes", str(MB), "--max-sessions", "1000000", "--sessions-bytes", str(sessions_bytes))
    with serving(*flags) as (server, client):
        client.fill(200, 1, TURN)  # until the log is full

        def fill() -> None:
            for number in range(sessions_bytes // (1024 + 2 * TURN) * 5 // 4):
                client.start(1, TURN, session_id=f"session {number}")
                if number % AT_ONCE == AT_ONCE - 1:
                    client.settle()
            client.settle()

        return grown(server, fill) / sessions_bytes


def silent(transport: str, runs: int) -> float:
    """Return the kB that a run which says nothing takes, with its follower."""
    flags = ("--run-timeout", "100000", "--max-connections", "100000", "--max-runs", "100000")
    ask = (b"GET /chat/stream?message=hi HTTP/1.1\r\nHost: localhost\r\n\r\n", b"")
    if transport == "ws":
        ask = (websocket(), masked(json.dumps({"type": "start", "request_id": "r", "message": "hi"})))
    with twinwire("benchmarks.agents:silent", *flags) as (server, port):
        held: list[Sinks] = [connected(port, [ask] * 100)]  # what is loaded and allocated once
        time.sleep(SETTLE)
        taken = grown(server, lambda: held.append(connected(port, [ask] * runs)))
        for sinks in held:
            sinks.close()
        return taken / runs / 1000


def run(log: int, runs: int) -> Report:
    """All of it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    report: Report = {
        **kept.about(),
        "log_bytes": log * MB,
        "runs": runs,
        "log": {size: full_log(size, log * MB) for size in SIZES},
        "live": live_log(log * MB),
        "conversations": conversations(log * MB // 2),
        "silent": {transport: silent(transport, runs) for transport in ("sse", "ws")},
    }
    return report


def table(report: Report) -> str:
    """The report as a Markdown table."""
    mib = report["log_bytes"] // MB
    lines = [
        "| what | memory that it adds |",
        "|---|---|",
    ]
    for size, share in report["log"].items():
        lines.append(f"| a full log of ended runs, events of {size} bytes | {share:.2f} x `--log-bytes` ({mib} MiB) |")
    lines.append(f"| one long run that goes on, events of {SIZES[0]} bytes | {report['live']:.2f} x its log |")
    lines.append(f"| full conversations | {report['conversations']:.2f} x `--sessions-bytes` ({mib // 2} MiB) |")
    for transport, size in report["silent"].items():
        name = {"sse": "SSE", "ws": "WebSocket"}[transport]
        lines.append(f"| a silent run and its follower over {name} ({report['runs']:,} of them) | {size:.1f} kB each |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure what the server keeps in memory.", allow_abbrev=False)
    parser.add_argument("--log", type=int, default=64, help="MiB of the log; default: %(default)s")
    parser.add_argument("--runs", type=int, default=2000, help="silent runs; default: %(default)s")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the result is kept")
    flags = parser.parse_args()
    step_aside()
    report = run(flags.log, flags.runs)
    print(json.dumps(report, indent=2) if flags.json else table(report))
    if flags.out is not None:
        kept.keep("memory", report, table, flags.out)


if __name__ == "__main__":
    main()
