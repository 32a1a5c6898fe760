"""The profiles that are no load: cancels, resumptions, idle connections, one reader who does not read, a real client.

One thing at a time, from this process; see `profiles` for the others.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from benchmarks.histogram import Histogram
from benchmarks.load import Ask, Notes, Plan, Stream, masked
from benchmarks.processes import ROOT
from benchmarks.profiles import Bench, Row, loaded
from benchmarks.schedule import Load
from benchmarks.targets import Target, Unusable

T = TypeVar("T")

PATIENCE = 5.0  # seconds


class Ear(asyncio.DatagramProtocol):
    """Hears when a run has stopped."""

    def __init__(self) -> None:
        self.stopped: asyncio.Queue[int] = asyncio.Queue()

    def datagram_received(self, data: bytes, _: object) -> None:
        """See `asyncio.DatagramProtocol`."""
        self.stopped.put_nowait(int(data))


def stream(target: Target, ask: Ask) -> Stream:
    """A connection to be made now."""
    now = time.monotonic_ns()
    plan = Plan(target.host, target.port, now, 0, [], 60, target.tls, target.ca, target.stamped)
    return Stream(Notes(plan), ask, now)


async def patiently(what: Awaitable[T]) -> T:
    """Wait, within reason. `asyncio.wait_for` may swallow the Ctrl-C that comes together with the result."""
    async with asyncio.timeout(PATIENCE):
        return await what


async def connected(target: Target, ask: Ask) -> Stream:
    """The same, open."""
    one = stream(target, ask)
    await one.connect()
    await patiently(one.opened)
    return one


@asynccontextmanager
async def ear() -> AsyncIterator[tuple[Ear, int]]:
    """An `Ear` and its port."""
    transport, found = await asyncio.get_running_loop().create_datagram_endpoint(Ear, ("127.0.0.1", 0))
    try:
        yield found, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def cancel(bench: Bench, target: Target, transport: str) -> Row:
    """From a cancel's sending to the moment the agent has stopped, for each way there is."""
    ways = ["close"]
    if target.own:
        ways.append("post" if transport == "sse" else "message")
    row = Row()
    async with ear() as (hearing, port):
        for way in ways:
            taken = []
            for _ in range(bench.sizes.commands):
                load = Load(rate=1000, count=100_000, seed=bench.seed, tell=port)
                one = await connected(target, target.start(transport, load, on_disconnect="cancel"))
                while one.tokens < 3:  # noqa: ASYNC110 - a pause between the cancels, too
                    await asyncio.sleep(0.001)
                sent = time.monotonic_ns()
                if way == "close":
                    one.end()
                elif way == "post":
                    assert one.cursor is not None
                    await asyncio.to_thread(target.post, f"/runs/{one.cursor[0]}/cancel")
                else:
                    one.transport.write(masked('{"type":"cancel","request_id":"r"}'))
                try:
                    taken.append(await patiently(hearing.stopped.get()) - sent)
                except TimeoutError:
                    row.warnings.append(f"an agent had not stopped {PATIENCE:g} s after its cancel ({way})")
                    break
                finally:
                    one.end()
            if taken:
                row.histograms["cancel_close" if way == "close" else "cancel_command"] = Histogram.of(taken)
    return row


async def resume(bench: Bench, target: Target, transport: str) -> Row:
    """From connecting with a cursor to the end of the run, which has `resumed` more tokens and is over."""
    sizes = bench.sizes
    first = await connected(target, target.start(transport, Load(rate=0, count=2 * sizes.resumed, seed=bench.seed)))
    await patiently(first.done)
    assert first.cursor is not None
    ask = target.follow(transport, first.cursor[0], str(sizes.resumed))
    before = target.process.cpu() if target.process else 0.0
    taken = []
    for _ in range(sizes.commands * 2):
        one = stream(target, ask)
        await one.connect()
        await patiently(one.done)
        taken.append(time.monotonic_ns() - one.due)
    row = Row(histograms={"resume": Histogram.of(taken)})
    if target.process:
        row.values["resume_us"] = (target.process.cpu() - before) * 1e6 / len(taken)
    return row


async def idle(bench: Bench, target: Target, transport: str) -> Row:
    """Connections to a run that says nothing: what making one costs, and what it weighs."""
    count = bench.sizes.idle
    ask = await target.shared(transport, Load(count=1, delay=600.0, seed=bench.seed))
    streams = [await connected(target, ask) for _ in range(20)]
    before = (target.process.cpu(), target.process.rss()) if target.process else (0.0, 0)
    taken = []
    for _ in range(count):
        streams.append(await connected(target, ask))
        taken.append(time.monotonic_ns() - streams[-1].due)
    row = Row(histograms={"connect": Histogram.of(taken)})
    if target.process:
        row.values["connect_us"] = (target.process.cpu() - before[0]) * 1e6 / count
        row.values["memory"] = (target.process.rss() - before[1]) / count
    for one in streams:
        one.end()
    return row


async def slow(bench: Bench, target: Target, transport: str) -> Row:
    """1 run of long events, 20 followers, one who reads nothing for a while: the others, and whether it gets all."""
    rate, seconds = 100, 2.0
    load = Load(rate=rate, count=int(rate * seconds), size=4_000, delay=0.3, seed=bench.seed)
    ask = await target.shared(transport, load)
    one = stream(target, Ask(ask.request, ask.texts, target.follow(transport, "$RUN", "$SEQ"), repeatable=True))
    loop = asyncio.get_running_loop()
    with socket.socket() as small:
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        await loop.sock_connect(small, (target.host, target.port))
        made, _ = await loop.create_connection(lambda: one, sock=small.dup())
    await patiently(one.opened)
    made.pause_reading()
    row = await loaded(bench, target, transport, [ask] * 20, 20 * load.count, gap=0.002, seconds=seconds + 0.3)
    del row.histograms["first"]
    made.resume_reading()
    await asyncio.wait([one.done], timeout=PATIENCE)
    row.values["slow_whole"] = float(one.tokens == load.count)
    row.values["slow_cuts"] = one.notes.outcome.reconnects
    one.end()
    return row


async def client(bench: Bench, target: Target, transport: str) -> Row:
    """CPU of Twinwire's own Python client for each event that it reads, parses and checks: from the log, and live."""
    sizes = bench.sizes
    run = await target.run(Load(rate=0, count=sizes.saturate // 2, seed=bench.seed))
    live = Load(rate=sizes.chat_rate, count=max(20, int(sizes.chat_rate * sizes.seconds)), seed=bench.seed)
    url = f"http://{target.host}:{target.port}"
    asked = (url, transport, run, live.message(), *([target.agent] if target.agent is not None else []))
    command = (sys.executable, "-m", "benchmarks.client", *asked)
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1, cwd=ROOT)
    out, errors = await process.communicate()
    if process.returncode:
        raise Unusable(f"the Python client could not follow: {errors.decode().strip().rpartition(chr(10))[2]}")
    return Row(dict(zip(("client_us", "client_live_us"), map(float, out.split()), strict=True)))
