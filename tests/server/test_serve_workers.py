"""`twinwire serve --workers 2` on a real Redis: one address, two processes, and what becomes of runs when one goes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.followers import KINDS, cancel, number, text
from support.processes import Process, stopped
from support.redis_server import fresh
from support.redis_workers import Client, raw
from support.serving import until
from twinwire.log.redis.link import Address
from twinwire.log.redis.scripts import Keys

LEASE = 2.0
DRAIN = 5.0
ENDLESS = 10**6
OTHER = {"sse": "ws", "ws": "sse"}

AGENT = """
import asyncio, os
from twinwire import StreamEvent

async def counter(request):
    yield StreamEvent("PROCESS", {"pid": os.getpid()})
    for n in range(int(request.message)):
        yield StreamEvent("LLM_CHUNK", {"content": f"{n} ", "delta": f"{n} "})
        await asyncio.sleep(0.02)
        if request.message == "1000000" and os.path.exists("enough"):
            break
"""


class Served:
    """A supervisor of two workers, and clients of theirs."""

    def __init__(self, process: Process, log: str) -> None:
        self.process = process
        self.keys = Keys(Address(log).namespace)
        self.one, self.two = sorted(process.workers())

    def starter(self, kind: str, words: int) -> Client:
        return Client(kind, lambda: self.process, message=str(words))

    def follower(self, kind: str, run_id: str) -> Client:
        return Client(kind, lambda: self.process, run_id=run_id)

    async def begin(self, pid: int, *clients: Client) -> list[asyncio.Task[list[dict[str, Any]]]]:
        """Have these clients connect, all to this worker, and see their first events."""
        with stopped(*self.process.workers() - {pid}):
            running = [asyncio.create_task(client.run()) for client in clients]
            await until(lambda: all(len(c.seen) > 1 or task.done() for c, task in zip(clients, running, strict=True)))
        return running

    async def end(self) -> str:
        """SIGTERM, and what it has logged: nothing goes on, in time, and all is told as it should be."""
        self.process.popen.send_signal(signal.SIGTERM)
        code, out, err = await asyncio.to_thread(self.process.end, DRAIN + 5)
        assert (code, out) == (-signal.SIGTERM, "")
        assert "Traceback" not in err
        async with raw() as redis:
            assert await redis.hlen(self.keys.live) == 0
        return err


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """Two workers that are up. The parameter is their lease, if there is one."""
    (tmp_path / "mine.py").write_text(AGENT)
    log = fresh(f"&lease={getattr(request, 'param', LEASE)}")
    flags = ("--workers", "2", "--port", "0", "--log", log, "--drain-timeout", str(DRAIN))
    with Process("serve", "mine:counter", *flags, cwd=tmp_path) as process:
        process.ready()
        yield Served(process, log)


def home(seen: list[dict[str, Any]]) -> int:
    """The pid of the worker that a run went on in."""
    pid: int = seen[1]["data"]["pid"]
    return pid


def how(seen: list[dict[str, Any]]) -> str:
    """How a run ended."""
    data = seen[-1]["data"]
    return str(data.get("error_type") or data["status"])


def words(count: int) -> str:
    """All that the agent says."""
    return "".join(f"{n} " for n in range(count))


@pytest.mark.parametrize("kind", KINDS)
async def test_followed_and_cancelled_on_the_other_worker(kind: str, served: Served) -> None:
    """A run that goes on in one process is followed and cancelled through the other, over either transport."""
    starter = served.starter(kind, ENDLESS)
    running = await served.begin(served.one, starter)
    there = [served.follower(each, starter.run_id) for each in KINDS]
    running += await served.begin(served.two, *there)
    running += await served.begin(served.two, witness := served.starter(kind, 0))
    with stopped(served.one):
        assert await cancel(kind, served.process, starter.run_id) == "accepted"
    whole, *others = await asyncio.gather(*running)
    assert (home(whole), how(whole)) == (served.one, "cancelled")
    assert others == [whole, whole, witness.seen]
    assert home(witness.seen) == served.two
    assert await cancel(kind, served.process, starter.run_id) == "already_finished"
    await served.end()


# `begin` stops the worker that has the long run: on a busy machine for longer than the other tests' lease.
@pytest.mark.full
@pytest.mark.parametrize("served", [30.0], indirect=True, ids=["long-lease"])
async def test_a_rolling_restart_under_load(served: Served, tmp_path: Path) -> None:
    """SIGHUP replaces both processes while runs start and end: each completes, and is seen once and whole."""
    old, new = served.process.workers(), asyncio.Event()
    long = served.starter("ws", ENDLESS)
    running = await served.begin(served.two, long)  # the second to be replaced: followers of the first must move
    moved = [served.follower(kind, long.run_id) for kind in KINDS]
    running += await served.begin(served.one, *moved)
    runs: list[tuple[Client, Client]] = []

    async def load(kind: str, count: int) -> None:
        while not new.is_set():
            starter = served.starter(kind, count)
            starting = asyncio.create_task(starter.run())
            await starter.known.wait()
            follower = served.follower(OTHER[kind], starter.run_id)
            runs.append((starter, follower))
            await asyncio.gather(starting, follower.run())

    loads = [asyncio.create_task(load(kind, count)) for kind in KINDS for count in (1, 5, 20)]
    await until(lambda: len(runs) >= len(loads))
    served.process.popen.send_signal(signal.SIGHUP)
    await until(lambda: all(follower.breaks > 0 for follower in moved))  # however long a worker takes to start
    (tmp_path / "enough").touch()
    await until(lambda: len(found := served.process.workers()) == 2 and not found & old)
    new.set()
    await asyncio.gather(*running, *loads)
    for starter, *followers in [(long, *moved), *runs]:
        assert how(starter.seen) == "completed"
        assert text(starter.seen) == words(len(starter.seen) - 3)  # and a start, a process and an end
        assert starter is long or len(starter.seen) - 3 in {1, 5, 20}
        assert starter.breaks == 0
        assert [follower.seen for follower in followers] == [starter.seen] * len(followers)
    homes = {home(starter.seen) for starter, _ in runs}
    assert homes & old
    assert homes - old
    assert "died" not in await served.end()


async def test_a_worker_is_killed(served: Served) -> None:
    """Its followers go on elsewhere, its runs end once and in time, and the process that takes its place serves."""
    lost, kept = served.starter("sse", ENDLESS), served.starter("ws", ENDLESS)
    dying = await served.begin(served.one, lost)
    living = await served.begin(served.two, kept)
    for pid in (served.one, served.two):
        dying += await served.begin(pid, *(served.follower(kind, lost.run_id) for kind in KINDS))
        living += await served.begin(pid, *(served.follower(kind, kept.run_id) for kind in KINDS))
    os.kill(served.one, signal.SIGKILL)
    async with asyncio.timeout(LEASE + 5):
        whole, *others = await asyncio.gather(*dying)
    assert (home(whole), how(whole)) == (served.one, "interrupted")
    assert others == [whole] * 4
    await until(lambda: len(served.process.workers()) == 2)
    (new,) = served.process.workers() - {served.two}
    [again] = await asyncio.gather(*await served.begin(new, served.starter("ws", 3)))
    assert (home(again), how(again), text(again)) == (new, "completed", words(3))
    with stopped(served.two):
        assert await cancel("ws", served.process, kept.run_id) == "accepted"
    whole, *others = await asyncio.gather(*living)
    assert (home(whole), how(whole)) == (served.two, "cancelled")
    assert others == [whole] * 4
    assert f"The worker {served.one} died (-9). Another takes its place." in await served.end()


async def test_sigterm_under_load(served: Served) -> None:
    """What can end within the drain does, the rest ends as interrupted, and each follower sees how, unbroken."""
    brief = [served.starter(kind, 50) for kind in KINDS * 2]
    endless = [served.starter(kind, ENDLESS) for kind in KINDS * 2]
    running = await served.begin(served.one, *brief[:2], *endless[:2])
    running += await served.begin(served.two, *brief[2:], *endless[2:])
    began = time.monotonic()
    ending = asyncio.create_task(served.end())
    await asyncio.gather(*running)
    await ending
    assert time.monotonic() - began < DRAIN + 5
    assert [how(client.seen) for client in (*brief, *endless)] == ["completed"] * 4 + ["interrupted"] * 4
    assert {text(client.seen) for client in brief} == {words(50)}
    assert {client.breaks for client in (*brief, *endless)} == {0}
    async with raw() as redis:
        for client in (*brief, *endless):
            assert await redis.xlen(served.keys.events(client.run_id)) == number(client.seen[-1])
