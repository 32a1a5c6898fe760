"""Server CPU per delivered event, as a ratio to a floor in the same run: one run to many followers, and many runs.

    uv run python -m benchmarks.fanout [--connections 500] [--seconds 5] [--json]

`fan-out` is one run at 100 events/s to all connections, `many` a run of 50 events/s for each, whose agent sleeps and
yields, and `emitted` the same with an agent that emits from timers, as the floor writes. The floor (`benchmarks.floor`)
writes the same bytes from a uvloop Protocol and does nothing else. Floor and Twinwire take turns. `made` is what the
floor of many runs takes if it also makes, encodes and frames each event, which has no run and no log there.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import time
from statistics import median

from benchmarks.command import Report, command
from benchmarks.load import masked
from benchmarks.processes import Program, program, twinwire
from benchmarks.relay import websocket

PING, PONG, MASKED = b"\x89", b"\x8a", 0x80
TAKES = {"fan-out": ("steady", 100.0), "many": ("steady", 50.0), "emitted": ("ticking", 50.0)}
"""Each take's agent, and its events a second."""


class Sink:
    """A connection that has asked, and counts what comes; a WebSocket's command follows its handshake.

    It answers the server's pings, which are frames by themselves (RFC 6455, section 5.5.2).
    """

    def __init__(self, port: int, request: bytes, command: bytes) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.sendall(request)
        self.connection.setblocking(False)
        self.command = command
        self.events = 0
        self.head = b""

    def read(self) -> None:
        """Count."""
        with contextlib.suppress(BlockingIOError):
            data = self.connection.recv(65_536)
            if self.command and b"101 Switching" in data:
                self.connection.sendall(self.command)
                self.command = b""
            if data[:1] == PING:
                payload = data[2 : 2 + data[1]]
                self.connection.sendall(PONG + bytes([MASKED | len(payload)]) + bytes(4) + payload)
            if len(self.head) < 2048:
                self.head += data
            self.events += data.count(b"LLM_CHUNK")


class Sinks:
    """Many connections, read by looking again and again at what has come.

    Nobody waits for them in the kernel: else each write of the server's would also have to wake this process up, or
    not where it is awake, which costs as much again as all the rest and follows from nothing that the server does.
    """

    def __init__(self) -> None:
        self.all: list[Sink] = []
        self._arrivals = selectors.DefaultSelector()

    @property
    def events(self) -> int:
        """How many have come."""
        return sum(sink.events for sink in self.all)

    def connect(self, port: int, requests: list[tuple[bytes, bytes]]) -> None:
        """Open connections, a few at a time."""
        for asked in requests:
            sink = Sink(port, *asked)
            self._arrivals.register(sink.connection, selectors.EVENT_READ, sink)
            self.all.append(sink)
            if len(self.all) % 50 == 0:
                self.read(0.02)

    def read(self, seconds: float) -> None:
        """Read for so long what comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.002)
            for key, _ in self._arrivals.select(0):
                key.data.read()

    def close(self) -> None:
        """Close all."""
        self._arrivals.close()
        for sink in self.all:
            sink.connection.close()


def count(server: Program, sinks: Sinks, begins: float, expected: int) -> dict[str, float]:
    """CPU of the server for the events from `begins` (monotonic) until all have come."""
    sinks.read(begins - 0.3 - time.monotonic())
    cpu, before = server.cpu(), sinks.events
    end = begins + 60
    while sinks.events - before < expected * 0.98 and time.monotonic() < end:
        sinks.read(0.1)
    delivered = sinks.events - before
    used = server.cpu() - cpu
    sinks.close()
    return {"delivered": delivered, "cpu_us": used * 1e6 / delivered}


def floor(take: str, transport: str, connections: int, seconds: float, *made: str) -> dict[str, float]:
    """The floor's figure; `made` is its flag of that name, if any."""
    _, rate = TAKES[take]
    total = int(rate * seconds)
    delay = 1.5 + connections / 1000
    flags = [] if take == "fan-out" else ["--each"]
    writer = (sys.executable, "-m", "benchmarks.floor", f"{rate}", f"{total}", f"{delay}", *flags, *made)
    with program(*writer, measured=True) as server:
        begins = time.monotonic() + delay
        asked = (b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", b"")
        if transport == "ws":
            asked = (websocket(), masked('{"type":"attach"}'))
        sinks = Sinks()
        sinks.connect(int(server.line), [asked] * connections)
        return count(server, sinks, begins, total * connections)


def ours(take: str, transport: str, connections: int, seconds: float) -> dict[str, float]:
    """Twinwire's figure."""
    agent, rate = TAKES[take]
    total = int(rate * seconds)
    delay = 1.5 + connections / 300
    with twinwire(f"benchmarks.agents:{agent}", "--run-timeout", "600", "--max-runs", "2000") as (server, port):
        begins = time.monotonic() + delay
        requests = []
        loads = [f'{{"rate":{rate},"count":{total},"delay":{delay:.3f}}}']
        if take != "fan-out":
            loads = [
                f'{{"rate":{rate},"count":{total},"delay":{delay + i / connections / rate:.4f}}}'
                for i in range(connections)
            ]
        for load in loads:
            quoted = load.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
            if transport == "sse":
                requests.append(
                    (f"GET /chat/stream?message={quoted} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b"")
                )
            else:
                escaped = load.replace('"', '\\"')
                start = f'{{"type":"start","request_id":"r","message":"{escaped}"}}'
                requests.append((websocket(), masked(start)))
        sinks = Sinks()
        sinks.connect(port, requests)
        if take == "fan-out":
            while b"evt-" not in sinks.all[0].head:
                sinks.read(0.01)
            run_id = sinks.all[0].head.partition(b"evt-")[2][:26].decode()
            follow = (f"GET /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b"")
            if transport == "ws":
                follow = (websocket(), masked(f'{{"type":"attach","run_id":"{run_id}"}}'))
            sinks.connect(port, [follow] * (connections - 1))
        return count(server, sinks, begins, total * connections)


async def run(connections: int, seconds: float, rounds: int) -> Report:
    """All of it, `rounds` times in turn; the medians."""
    report: Report = {"connections": connections, "seconds": seconds, "rounds": rounds}
    for take in TAKES:
        for transport in ("sse", "ws"):
            floors, made, figures, ratios = [], [], [], []
            for _ in range(rounds):
                floors.append(floor(take, transport, connections, seconds)["cpu_us"])
                if take == "emitted":
                    made.append(floor(take, transport, connections, seconds, "--made")["cpu_us"])
                figures.append(ours(take, transport, connections, seconds)["cpu_us"])
                ratios.append(figures[-1] / floors[-1])
            report[f"{take} {transport}"] = {
                "floor_us": median(floors),
                "cpu_us": median(figures),
                "ratio": median(ratios),
            }
            if made:
                report[f"{take} {transport}"]["made_us"] = median(made)
    return report


def table(report: Report) -> str:
    """The report for a person."""
    lines = [f"{report['connections']} connections, {report['seconds']:g} s, {report['rounds']} rounds", ""]
    lines.append(f"{'':14}{'floor us':>10}{'made us':>10}{'ours us':>10}{'ratio':>8}")
    for name, row in report.items():
        if isinstance(row, dict):
            made = f"{row['made_us']:.2f}" if "made_us" in row else "-"
            lines.append(f"{name:14}{row['floor_us']:>10.2f}{made:>10}{row['cpu_us']:>10.2f}{row['ratio']:>8.2f}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    about = "Measure what delivering an event costs, against a floor."
    command(about, run, table, connections=500, seconds=5.0, rounds=3)


if __name__ == "__main__":
    main()
