"""The load generator: raw connections that ask as a plan says and note when each token came.

    python -m benchmarks.load

A process of its own: reads a `Plan` a line from standard input and writes an `Outcome` a line, both JSON. It parses no
more than it must (a regular expression over what came), reports its own CPU, and so tells when it is what limits.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import re
import ssl
import sys
import time
from array import array
from collections import defaultdict
from statistics import median
from typing import cast

import msgspec
import uvloop

from benchmarks.histogram import Histogram
from benchmarks.processes import waited
from benchmarks.schedule import pacer

TAP_BYTES = 64 * 1024  # of the first connection, what is kept of the bytes that came
MOST_RECONNECTS = 10_000  # of all connections: something else is wrong then
SLICE_NS = 50_000_000  # of the time series
_STAMPED = re.compile(rb'"content":\s?"@(\d+) ')
_PLAIN = re.compile(rb'"content":\s?"()')
_ID = re.compile(rb'evt-([a-z2-7]{26})-(\d+)["\n]')
_END = re.compile(rb'AGENT_FINISH|"ERROR"|event: ERROR|\[DONE\]')
_CLOSE = re.compile(rb"\x88[\x02-\x7d](?=[\x03\x0f])")  # a WebSocket's close frame, with a code; tokens are ASCII
_TAIL = 96  # of what came, what may be the beginning of something


class Ask(msgspec.Struct, frozen=True):
    """What a connection sends: a request's head (of a WebSocket its handshake), and texts once it is open.

    `again` is what it sends after it was cut; `$RUN` and `$SEQ` in it stand for its cursor. One that has no cursor yet
    asks as before where that is `repeatable`.
    """

    request: str
    texts: tuple[str, ...] = ()
    again: Ask | None = None
    repeatable: bool = False

    def at(self, run: str, seq: str) -> Ask:
        """`again` with its cursor."""
        assert self.again is not None
        request, *texts = (
            text.replace("$RUN", run).replace("$SEQ", seq) for text in (self.again.request, *self.again.texts)
        )
        return Ask(request, tuple(texts), self.again)


class Plan(msgspec.Struct):
    """Connections to `host:port`; the first is due at `begin` (CLOCK_MONOTONIC, ns), each next one `gap` seconds later.

    It ends when every stream has, or after `seconds`.
    """

    host: str
    port: int
    begin: int
    gap: float
    asks: list[Ask]
    seconds: float
    tls: bool = False
    ca: str | None = None  # a file with the certificate to trust
    stamped: bool = True


class Outcome(msgspec.Struct):
    """What came. Histograms are `[bucket, count]` of nanoseconds; `series` has `[ms, p50 us, largest us]`."""

    tokens: int = 0
    ended: int = 0
    failed: int = 0
    reconnects: int = 0
    head_bytes: int = 0
    bytes: int = 0
    cpu: float = 0.0
    waited: float = 0.0
    wall: float = 0.0
    seconds: float = 0.0  # from the first token to the last
    delivery: list[list[int]] = []
    first: list[list[int]] = []
    gaps: list[list[int]] = []
    series: list[tuple[float, float, float]] = []
    tap: str = ""


class Notes:
    """What the connections of a plan have seen, in nanoseconds."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pattern = _STAMPED if plan.stamped else _PLAIN
        self.delivery, self.came, self.first, self.gaps = array("q"), array("q"), array("q"), array("q")
        self.outcome = Outcome()
        self.tap = bytearray()
        self.context = ssl.create_default_context(cafile=plan.ca) if plan.tls else None


class Stream(asyncio.Protocol):
    """One connection; `done` when its run has ended or it is given up."""

    transport: asyncio.Transport

    def __init__(self, notes: Notes, ask: Ask, due: int, *, tapped: bool = False) -> None:
        self.notes, self.ask, self.due, self.tapped = notes, ask, due, tapped
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tokens = 0
        self.last = 0
        self.torn = False  # the last token has come without its id
        self.cursor: tuple[str, str] | None = None
        self._reset()

    def _reset(self) -> None:
        self.rest = b""
        self.in_head = True

    async def connect(self) -> None:
        """At its time; a failure counts as one."""
        await pacer().until(self.due)
        await self._connect()

    async def _connect(self) -> None:
        plan, before = self.notes.plan, getattr(self, "transport", None)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self, plan.host, plan.port, ssl=self.notes.context
            )
        except OSError:
            if getattr(self, "transport", None) is before:  # else it was made, and is told that it is lost
                await asyncio.sleep(0.02)
                self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.ask.request.encode())

    def data_received(self, data: bytes) -> None:
        """Note the tokens in it."""
        now = time.monotonic_ns()
        notes = self.notes
        data = self.rest + data
        new = len(data) - len(self.rest)
        if self.in_head:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self.rest = head
                return
            self.in_head = False
            self.rest = b""
            notes.outcome.head_bytes += len(head) + 4
            new = len(data)
            if head[9:12] not in {b"200", b"101"}:
                self.end(failed=head[9:12] != b"204")
                return
            for text in self.ask.texts:
                self.transport.write(masked(text))
            if not self.opened.done():
                self.opened.set_result(None)
        notes.outcome.bytes += new
        if self.tapped and len(notes.tap) < TAP_BYTES:
            notes.tap += data[len(data) - new :]
        end = 0
        for match in notes.pattern.finditer(data):
            end = match.end()
            if self.last:
                notes.gaps.append(now - self.last)
            else:
                notes.first.append(now - self.due)
            self.last = now
            self.tokens += 1
            notes.came.append(now)
            if match[1]:
                notes.delivery.append(now - int(match[1]))
        if self.ask.again is not None:
            self.torn = end > 0 or self.torn
            for cursor in _ID.finditer(data):
                self.cursor = cursor[1].decode(), cursor[2].decode()
                self.torn = cursor.start() < end
        if _END.search(data):
            self.end()
        elif self.ask.texts and _CLOSE.search(data):
            self.transport.abort()
        self.rest = data[max(end, len(data) - _TAIL) :]

    def connection_lost(self, _: Exception | None) -> None:
        """Where it was cut before the end it comes back at its cursor, if it has one."""
        if self.done.done():
            return
        outcome = self.notes.outcome
        if self.cursor is not None:
            self.ask = self.ask.at(*self.cursor)
        elif not self.ask.repeatable or outcome.reconnects > MOST_RECONNECTS:
            self.end(failed=True)
            return
        outcome.reconnects += 1
        if self.torn:  # it comes again
            self.torn = False
            self.tokens -= 1
            outcome.tokens -= 1
        self._reset()
        self.again = asyncio.create_task(self._connect())

    def end(self, *, failed: bool = False) -> None:
        """Close it, for good."""
        self.notes.outcome.failed += failed
        if not self.done.done():
            self.notes.outcome.ended += not failed
            self.done.set_result(None)
        if not self.opened.done():
            self.opened.set_result(None)
        if hasattr(self, "transport"):
            self.transport.close()


@functools.cache
def masked(text: str) -> bytes:
    """A client's WebSocket text frame (RFC 6455, section 5.2), masked with zeros."""
    data = text.encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + data


def series(notes: Notes) -> list[tuple[float, float, float]]:
    """Delivery over time: of each slice its start, median and largest."""
    slices = defaultdict(list)
    for came, late in zip(notes.came, notes.delivery, strict=False):
        slices[(came - late - notes.plan.begin) // SLICE_NS].append(late)
    return [
        (index * SLICE_NS / 1e6, round(median(values) / 1e3, 1), round(max(values) / 1e3, 1))
        for index, values in sorted(slices.items())
    ]


async def carry_out(plan: Plan) -> Outcome:
    """One plan."""
    notes = Notes(plan)
    began, cpu, before = time.monotonic(), time.process_time(), waited()
    streams = [
        Stream(notes, ask, plan.begin + int(i * plan.gap * 1e9), tapped=i == 0) for i, ask in enumerate(plan.asks)
    ]
    connecting = [asyncio.create_task(stream.connect()) for stream in streams]
    await asyncio.wait([stream.done for stream in streams], timeout=plan.seconds)
    outcome = notes.outcome
    outcome.wall, outcome.cpu = time.monotonic() - began, time.process_time() - cpu
    outcome.waited = waited() - before
    for task in connecting:
        task.cancel()
    for stream in streams:
        if not stream.done.done():
            stream.done.set_result(None)
            if hasattr(stream, "transport"):
                stream.transport.abort()
    outcome.failed += len(streams) - outcome.ended - outcome.failed
    outcome.tokens += len(notes.came)
    outcome.seconds = (notes.came[-1] - notes.came[0]) / 1e9 if notes.came else 0.0
    for name in ("delivery", "first", "gaps"):
        setattr(outcome, name, Histogram.of(getattr(notes, name)).pairs())
    outcome.series = series(notes)
    outcome.tap = base64.b64encode(notes.tap).decode()
    return outcome


def main() -> None:
    """The process, until its input ends."""
    print("ready", flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin.buffer:
            outcome = runner.run(carry_out(msgspec.json.decode(line, type=Plan)))
            sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
