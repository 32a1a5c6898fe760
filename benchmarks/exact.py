"""Count what the server does per event: instructions, system calls and bytes. The machine's load changes none of them.

    python -m benchmarks --exact [--profiles relay-sse,many-ws] [--out DIR]

A model's server and the followers run in this process. They move in lockstep: the next token is sent when every
follower has received the one before. So each token arrives alone, however slowly the server runs, and the same work is
done in each measurement. The server has a fixed `PYTHONHASHSEED`.

Starts and connections are made, and warmed up, before anything is counted. Each count is made over `n` events, and then
over the same time without one. The difference is divided by `n`, so that the server's timers and the measuring itself
cancel out. Heartbeats come with time alone: they are counted against the same time without a connection.

- Instructions: callgrind (`valgrind`). The kernel's instructions are not among them.
- System calls: `strace -c`. Bytes: counted by the followers.
- CPU: a clock of the server alone, without an instrument, over more events. It includes the kernel's time.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.environment import commit, environment
from benchmarks.fanout import MASKED, PING, PONG
from benchmarks.load import masked
from benchmarks.processes import ROOT, Program, step_aside, twinwire
from benchmarks.relay import Stream, sse, start, websocket
from benchmarks.targets import Unusable
from twinwire.protocol.wire import HEARTBEAT

sys.path.insert(0, str(ROOT / "tests"))
from support.model_server import Exchange, ModelServer, Request, Script, delta, end, obfuscation

README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- exact: begin -->\n", "<!-- exact: end -->\n"
ENVIRON = {"PYTHONHASHSEED": "0", "OPENAI_API_KEY": "none", "TWINWIRE_MODEL": "m"}
VALGRIND = ("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null")
FLAGS = ("--run-timeout", "3600", "--model-timeout", "3600", "--user-connections", "1000")
MANY, IDLE = 50, 200  # connections
WARM_UP = 20  # tokens of each run, or one heartbeat, before anything is counted
SETTLE = 0.1  # seconds in which the server ends its turn after the last follower has been written to
CLOSE = 3.0  # seconds in which it has closed all connections, below callgrind too


class Row(msgspec.Struct, frozen=True):
    """A scene to measure: `runs` runs, and `followers` connections in all.

    In each of the `steps` each run gets a token or, if `idle`, each connection a heartbeat. CPU is taken over `longer`
    times as many. `agent` is our own `simple`, which pushes, or one of `benchmarks.agents`.
    """

    about: str
    runs: int = 1
    followers: int = 1
    steps: int = 400
    longer: int = 10
    agent: str = "simple"
    obfuscated: bool = False
    idle: bool = False


KINDS = {
    "relay": Row("1 run, 1 follower"),
    "obfuscated": Row("the same, `obfuscation` in each chunk", obfuscated=True),
    "yielding": Row("the same, from an agent that iterates over the model and yields", agent="yielding"),
    "fanout": Row(f"1 run, {MANY} followers", followers=MANY, steps=100),
    "many": Row(f"{MANY} runs, 1 follower each", runs=MANY, followers=MANY, steps=20),
    "idle": Row(f"{IDLE} connections, two heartbeats a second", followers=IDLE, steps=10, longer=2, idle=True),
}
ROWS = {f"{kind}-{transport}": row for kind, row in KINDS.items() for transport in ("sse", "ws")}


class Tally:
    """The sum of what all followers have received: events (tokens or heartbeats) and bytes."""

    def __init__(self) -> None:
        self.events = self.bytes = 0
        self._news = asyncio.Event()

    def add(self, events: int, size: int) -> None:
        """Add what a follower has received."""
        self.events += events
        self.bytes += size
        self._news.set()

    async def reach(self, events: int) -> None:
        """Wait until so many events have come in all."""
        while self.events < events:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 60)


class Follower(Stream):
    """A connection that tallies each occurrence of `counted`, and answers the server's pings."""

    def __init__(self, tally: Tally, counted: bytes, request: bytes, command: bytes = b"") -> None:
        super().__init__(request, [], [], command)
        self.tally, self.counted = tally, counted
        self.head = b""

    async def heard(self, text: bytes) -> None:
        """Wait until this is among the first bytes that have come."""
        while text not in self.head:  # noqa: ASYNC110 - not what is measured
            await asyncio.sleep(0.01)

    def data_received(self, data: bytes) -> None:
        """Tally it. A ping comes as a frame of its own."""
        if self.command and data.startswith(b"HTTP/1.1 101"):
            self.transport.write(self.command)
        if data[:1] == PING:
            self.transport.write(PONG + bytes([MASKED, 0, 0, 0, 0]))
        if len(self.head) < 2048:
            self.head += data
        self.tally.add(data.count(self.counted), len(data))


class Scene:
    """The model's server and the followers of a row."""

    def __init__(self, row: Row, *, over_ws: bool) -> None:
        self.row, self.over_ws = row, over_ws
        self.counted = (PING if over_ws else HEARTBEAT) if row.idle else b'"delta"'
        self.tally = Tally()
        self.model = ModelServer(self._respond)
        self._exchanges: asyncio.Queue[Exchange] = asyncio.Queue()
        self._live: list[Exchange] = []
        self._followers: list[Follower] = []
        self._chance = random.Random(1)

    def _respond(self, _: Request) -> Script:
        async def act(exchange: Exchange) -> None:
            exchange.begin()
            self._exchanges.put_nowait(exchange)
            await exchange.request.closed.wait()

        return [act, *end()]

    async def _follow(self, port: int, request: bytes, command: bytes = b"") -> Follower:
        follower = Follower(self.tally, self.counted, request, command)
        await asyncio.get_running_loop().create_connection(lambda: follower, "127.0.0.1", port)
        self._followers.append(follower)
        return follower

    async def open(self, port: int) -> None:
        """Start the runs, connect the other followers to the first of them, and warm up."""
        for _ in range(self.row.runs):
            agent = self.row.agent
            first = await self._follow(port, *((websocket(), start(agent)) if self.over_ws else (sse(agent),)))
            self._live.append(await asyncio.wait_for(self._exchanges.get(), 60))
            self._live[-1].send(self._token())  # its id tells the run's
            await first.heard(b'"delta"')
        run_id = first.head.partition(b"evt-")[2][:26].decode()
        for _ in range(self.row.followers - self.row.runs):
            attach = f"GET /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b""
            if self.over_ws:
                attach = websocket(), masked(f'{{"type":"attach","run_id":"{run_id}"}}')
            follower = await self._follow(port, *attach)
            await follower.heard(b'"delta"')
        await asyncio.sleep(SETTLE)
        await self.play(1 if self.row.idle else WARM_UP)

    def _token(self) -> bytes:
        return delta({"content": "a token, "}, **(obfuscation(self._chance) if self.row.obfuscated else {}))

    async def play(self, steps: int) -> None:
        """Take so many steps, and let the server come to rest."""
        if self.row.idle:
            await self.tally.reach(self.tally.events + steps * self.row.followers)
        else:
            for _ in range(steps):
                for run in self._live:
                    run.send(self._token())
                    await self.tally.reach(self.tally.events + self.row.followers // self.row.runs)
        await asyncio.sleep(SETTLE)

    async def close(self) -> None:
        """Close the connections."""
        while self._followers:
            self._followers.pop().transport.abort()
        await asyncio.sleep(CLOSE if self.row.idle else SETTLE)


@contextmanager
def instructions(server: Program) -> Iterator[Counter[str]]:
    """Count the instructions of all threads in this block, of a server below callgrind."""

    def monitor(*command: str) -> str:  # callgrind's manual, section 6.4
        asked = ["vgdb", f"--pid={server.pid}", *command]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout

    counts = Counter[str]()
    monitor("instrumentation", "on")
    monitor("zero")
    yield counts
    told = monitor("status", "internal")
    monitor("instrumentation", "off")
    counts["instructions"] = sum(map(int, re.findall(r"^events-\d+: (\d+)", told, re.MULTILINE)))


@contextmanager
def calls(server: Program) -> Iterator[Counter[str]]:
    """Count the system calls in this block, by name."""
    counts = Counter[str]()
    with tempfile.NamedTemporaryFile("r") as summary:
        command = ["strace", "-f", "-c", "-U", "calls,name", "-o", summary.name, "-p", f"{server.pid}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            if "attached" not in (line := strace.stderr.readline()):
                raise Unusable(f"--exact: {line.strip()}")
            yield counts
            strace.send_signal(signal.SIGINT)
        lines = (line.split() for line in summary)
        counts.update({words[1]: int(words[0]) for words in lines if len(words) == 2 and words[0].isdigit()})
    counts["calls"] = counts.pop("total", 0)


@contextmanager
def cpu(server: Program) -> Iterator[Counter[str]]:
    """Count the microseconds of CPU in this block."""
    before = server.cpu()
    counts = Counter[str]()
    yield counts
    counts["cpu_us"] = int((server.cpu() - before) * 1e6)


def flags(row: Row) -> tuple[str, ...]:
    """Return the arguments of the server of a row."""
    target = () if row.agent == "simple" else (f"benchmarks.agents:{row.agent}",)
    return (*target, *FLAGS, "--heartbeat", "0.5" if row.idle else "3600")


async def measure(name: str) -> dict[str, Any]:
    """Return a row's figures per event. Each instrument has a server of its own."""
    row = ROWS[name]
    figures: dict[str, Any] = msgspec.to_builtins(row)
    for instrument in (instructions, calls, cpu):
        steps = row.steps * (row.longer if instrument is cpu else 1)
        under = VALGRIND if instrument is instructions else ()
        scene = Scene(row, over_ws=name.endswith("ws"))
        async with scene.model as model:
            environ = ENVIRON | {"TWINWIRE_BASE_URL": model.url}
            with twinwire(*flags(row), environ=environ, under=under) as (server, port):
                await scene.open(port)
                with instrument(server) as busy:
                    began, received = time.monotonic(), scene.tally.bytes
                    await scene.play(steps)
                    took = time.monotonic() - began
                events = steps * row.followers
                figures["bytes"] = (scene.tally.bytes - received) / events
                if row.idle:
                    await scene.close()
                with instrument(server) as calm:
                    await asyncio.sleep(took)
                busy.subtract(calm)
                figures |= {key: count / events for key, count in sorted(busy.items())}
                await scene.close()
    return figures


async def run(names: Sequence[str]) -> dict[str, Any]:
    """Measure these rows."""
    for needed in ("valgrind", "vgdb", "strace"):
        if shutil.which(needed) is None:
            raise Unusable(f"--exact: {needed} is not installed")
    command = " ".join(["python", "-m", "benchmarks", *sys.argv[1:]])
    result: dict[str, Any] = {"command": command, "commit": commit("server"), "environment": environment(), "rows": {}}
    step_aside()
    for name in names:
        sys.stderr.write(f"{name}\n")
        result["rows"][name] = await measure(name)
    return result


def table(result: dict[str, Any]) -> str:
    """Return the rows as a Markdown table."""
    about = result["environment"]
    lines = [
        f"`{result['command']}`, server of commit {result['commit']}, Python {about['python']}, {about['processor']}.",
        "An event is a token that one follower receives, or one heartbeat of one connection.",
        "",
        "| row | work | instructions | system calls | bytes | CPU |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        figures = f"{row['instructions']:,.0f} | {row['calls']:.2f} | {row['bytes']:.0f} | {row['cpu_us']:.0f} µs"
        lines.append(f"| {name} | {row['about']} | {figures} |")
    return "\n".join(lines)


def keep(result: dict[str, Any], folder: Path) -> None:
    """Write the result to `folder`. In `benchmarks/results`, it is also README's table."""
    (folder / "exact.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    if folder.resolve() == README.parent / "results":
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}{table(result)}\n{END}{rest.partition(END)[2]}")
