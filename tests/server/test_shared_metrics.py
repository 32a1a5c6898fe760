"""The metrics of several workers as one: a sum that never falls, with the gauges of living workers alone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.followers import start
from support.metrics import figures
from support.processes import Process, stopped
from support.redis_server import fresh
from support.serving import Puppets, Running, serving, until
from twinwire.telemetry import shared
from twinwire.telemetry.shared import Board, Family, Sample, Slot

ROUNDS = 2000


def told(runs: float, live: float = 0, pid: str = "1") -> list[Family]:
    """Make the metrics of a worker."""
    return [
        Family("runs", "Runs", "counter", [Sample("runs_total", {"agent": "a"}, runs)]),
        Family("live", "Runs that go on", "gauge", [Sample("live", {}, live)]),
        Family("cpu", "Seconds", "counter", [Sample("cpu_total", {"worker": pid}, runs)]),
    ]


def values(families: list[Family]) -> dict[tuple[str, ...], float]:
    """Return each sample's value, by its name and its labels' values."""
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_living_workers_are_summed() -> None:
    """Counters and gauges are sums, what is about one process stays apart, and who has written nothing is 0."""
    board = Board(3)
    one, two, _ = board.take(), board.take(), board.take()
    one.write(told(1, 10))
    one.write(told(2, 20))
    two.write(told(3, 30, "2"))
    assert values(one.families()) == values(two.families())
    assert values(one.families()) == {
        ("runs_total", "a"): 5,
        ("live",): 50,
        ("cpu_total", "1"): 2,
        ("cpu_total", "2"): 3,
    }


def test_what_a_worker_leaves_behind() -> None:
    """Of a worker that has ended the counters stay, once, also while another one has its slot; its gauges are gone."""
    board = Board(2)
    gone, other = board.take(), board.take()
    gone.write(told(5, 1))
    other.write(told(1, 1, "2"))
    for number in range(3, 20):
        board.give_back(gone)
        assert values(other.families()) == {("runs_total", "a"): 6 + number - 3, ("live",): 1, ("cpu_total", "2"): 1}
        gone = board.take()
        assert values(other.families())["runs_total", "a"] == 6 + number - 3
        gone.write(told(1, 1, str(number)))
    assert [family.name for family in board._read_past().families] == ["runs", "cpu"]
    assert len(values(board._read_past().families)) == 1


def test_a_worker_that_never_wrote() -> None:
    """A worker that dies before its first metrics leaves nothing, and what was in its slot is not counted anew."""
    board = Board(1)
    slot = board.take()
    slot.write(told(5))
    for _ in range(3):
        board.give_back(slot)
        slot = board.take()
    assert values(slot.families()) == {("runs_total", "a"): 5}


def test_metrics_that_are_too_many(caplog: pytest.LogCaptureFixture) -> None:
    """Metrics that do not fit leave the ones before, and are told of once."""
    board = Board(1)
    slot = board.take()
    slot.write(told(5))
    many = [Family("x", "y" * shared.HALF_BYTES, "counter", [])]
    for _ in range(3):
        slot.write(many)
    assert values(slot.families())["runs_total", "a"] == 5
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_reader_beside_writers() -> None:
    """Whoever reads while others write finds whole metrics, and no counter falls."""
    board = Board(2)
    slots = board.take(), board.take()
    done = threading.Event()

    def write(slot: Slot) -> None:
        for number in range(1, ROUNDS + 1):
            slot.write(told(number))
        done.set()

    threads = [threading.Thread(target=write, args=(slot,)) for slot in slots]
    for thread in threads:
        thread.start()
    seen = [0.0]
    while not done.is_set():
        seen.append(values(board.families()).get(("runs_total", "a"), 0))
    for thread in threads:
        thread.join()
    assert seen == sorted(seen)
    assert values(board.families())["runs_total", "a"] == 2 * ROUNDS


def test_a_damaged_text() -> None:
    """A text that is not what was written is not counted: the scrape fails, which is better than a false sum."""
    board = Board(1)
    slot = board.take()
    slot.write(told(5))
    at = board._half(0, board._memory[0]) + shared._HEAD.size
    board._memory[at] ^= 1
    with pytest.raises(RuntimeError):
        slot.families()


async def test_any_worker_tells_of_all(puppets: Puppets) -> None:
    """Whichever worker answers a scrape tells of all of them; one that is gone has left its counters."""
    board = Board(2)
    async with serving({"mine": puppets}) as one:
        one.service.metrics.slot = board.take()
        async with serving({"mine": puppets}) as two:
            two.service.metrics.slot = board.take()
            followers = [await start(kind, server) for server in (one, two) for kind in ("sse", "ws")]
            for _ in followers:
                (await puppets.next()).say("a")
            for follower in followers:
                await follower.next()
            for server in (one, two):
                await server.server.on_tick(0)  # as its main loop does ten times a second
            for server in (one, two):
                now = await figures(server.url)
                assert now["twinwire_workers",] == 2
                assert now["twinwire_runs_live",] == now["twinwire_runs_started_total", "mine"] == 4
                assert now["twinwire_connections", "sse"] == now["twinwire_connections", "ws"] == 2
                assert now["process_open_fds", str(os.getpid())] > 0
            for follower in followers:
                await follower.close()
        board.give_back(two.service.metrics.slot)
        now = await figures(one.url)
        assert (now["twinwire_workers",], now["twinwire_runs_started_total", "mine"]) == (1, 4)
        assert now["twinwire_runs_ended_total", "mine", "error"] == 2  # interrupted by the end of their server


async def test_one_process_says_so(server: Running) -> None:
    """A server without workers tells of one process, whose samples need no label for that."""
    now = await figures(server.url)
    assert now["twinwire_workers",] == 1
    assert now["process_open_fds",] > 0


AGENT = """
from twinwire import StreamEvent

async def mine(request):
    yield StreamEvent("LLM_CHUNK", {"content": "a", "delta": "a"})
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Process]:
    """Two workers that are up."""
    (tmp_path / "mine.py").write_text(AGENT)
    flags = ("--workers", "2", "--port", "0", "--log", fresh("&lease=30"), "--drain-timeout", "5")
    with Process("serve", "mine:mine", *flags, cwd=tmp_path) as process:
        process.ready()
        yield process


@pytest.mark.full
async def test_workers_that_hang_die_and_are_replaced(served: Process) -> None:
    """A worker that hangs holds no scrape up, and what one that dies or is replaced has counted stays in the sum."""
    seen: list[float] = []

    async def scraped() -> dict[tuple[str, ...], float]:
        while True:
            try:
                now = await figures(served.url)
            except httpx.TransportError:  # the worker that had accepted this connection is ending
                continue
            seen.append(now["twinwire_runs_started_total", "mine"])
            return now

    async def both_scraped() -> dict[tuple[str, ...], float]:
        async with asyncio.timeout(30):
            while (now := await scraped())["twinwire_workers",] != 2:
                pass
        return now

    one, two = sorted(served.workers())
    async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        for other in (one, two):
            with stopped(other):
                for _ in range(5):
                    answer = await client.post(f"{served.url}/chat", json={"message": "hi", "stream": False})
                    assert answer.json()["result"] == "a"
    async with asyncio.timeout(30):
        while (await scraped())["twinwire_runs_started_total", "mine"] < 10:  # until both have shared what they counted
            pass
    for other in (one, two):
        with stopped(other):
            assert (await scraped())["twinwire_runs_started_total", "mine"] == 10
    os.kill(one, signal.SIGKILL)
    await until(lambda: len(served.workers() - {one}) == 2)
    now = await both_scraped()
    assert (now["twinwire_runs_started_total", "mine"], now["twinwire_runs_live",]) == (10, 0)
    before = served.workers()
    served.popen.send_signal(signal.SIGHUP)
    while served.workers() & before or len(served.workers()) != 2:
        await scraped()
    now = await both_scraped()
    assert now["twinwire_runs_started_total", "mine"] == 10
    assert {labels[0] for name, *labels in now if name == "process_open_fds"} == {*map(str, served.workers())}
    assert seen == sorted(seen)
