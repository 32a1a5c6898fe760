"""`kill -9` of workers that share a real Redis, and workers that come back as zombies, while clients follow.

As many rounds as CRASH_ROUNDS says. Each run is followed from all workers; clients of one that dies resume on another.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.crashes import counter, seeded
from support.followers import KINDS, OTHER, attach, cancel, rest, text
from support.processes import Process, stopped
from support.redis_server import fresh
from support.redis_workers import Client, raw
from twinwire.log.redis.link import Address
from twinwire.log.redis.scripts import Keys

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "2"))
WORKERS = 3
LEASE = 1.0
ENDLESS = 10**6


class Played:
    """A run of so many words that is started on one worker and followed from all."""

    def __init__(self, crash: Crash, home: Process, kind: str, words: int) -> None:
        self.home = home
        self.words = words
        self.starter = Client(kind, crash.survivor, message=str(words))
        self.others: list[Client] = []
        self.ended_elsewhere = asyncio.Event()
        self.orphan = False  # it went on on the victim
        self._crash = crash

    async def follow(self) -> None:
        """Until all have seen the end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.starter.run(self.home))
            await self.starter.known.wait()
            elsewhere = [worker for worker in self._crash.workers if worker is not self.home]
            self.others = [
                Client(OTHER[self.starter.kind], self._crash.survivor, run_id=self.starter.run_id) for _ in elsewhere
            ]
            await asyncio.gather(*(client.run(first) for client, first in zip(self.others, elsewhere, strict=True)))
            self.ended_elsewhere.set()

    def verify(self, log: list[dict[str, Any]]) -> str:
        """All clients have seen the log as it is, and it ends as it should; how that is."""
        for client in (self.starter, *self.others):
            assert client.seen == log
        end = log[-1]["data"]
        how: str = end.get("error_type") or end["status"]
        if self.home is not self._crash.victim:
            assert how == ("cancelled" if self.words == ENDLESS else "completed")
        elif self.orphan and self.words == ENDLESS:
            assert how == "interrupted"
        if how == "completed":
            assert text(log) == "".join(f"{n} " for n in range(self.words))
        return how


class Crash:
    """One round: runs on all workers, one of which is the victim."""

    def __init__(self, workers: list[Process], chance: random.Random) -> None:
        self.workers = workers
        self.victim = chance.choice(workers)
        self._chance = chance
        self._runs = [
            Played(self, worker, kind, words)
            for worker in workers
            for kind in KINDS
            for words in (ENDLESS, chance.choice([0, 3, 40]))
        ]

    def survivor(self) -> Process:
        return self._chance.choice([worker for worker in self.workers if worker is not self.victim])

    async def play(self, *, zombie: bool) -> None:
        """Kill the victim, or stop it for as long as it takes until others have ended its runs, or longer."""
        following = asyncio.gather(*(run.follow() for run in self._runs))
        await asyncio.sleep(self._chance.uniform(0.0, 0.6))
        if zombie:
            with stopped(self.victim.popen.pid):
                await self._orphans_end()
                await asyncio.sleep(self._chance.uniform(0.0, 1.5))
        else:
            self.victim.popen.send_signal(signal.SIGKILL)
            await self._orphans_end()
        for run in self._runs:
            if run.words == ENDLESS:
                await run.starter.known.wait()
                await cancel(self._chance.choice(KINDS), self.survivor(), run.starter.run_id)
        async with asyncio.timeout(LEASE + 5):
            await following

    @property
    def orphaned(self) -> bool:
        """Whether an agent went on on the victim that has more to say."""
        return any(run.orphan and run.words == ENDLESS for run in self._runs)

    async def _orphans_end(self) -> None:
        """Those who follow the victim's runs elsewhere see them end in time."""
        gone = time.monotonic()
        orphans = [run for run in self._runs if run.starter.started_on is self.victim]
        async with asyncio.timeout(LEASE + 5):
            for run in orphans:
                run.orphan = True
                await run.ended_elsewhere.wait()
        print(f"{len(orphans)} orphans ended after {time.monotonic() - gone:.2f} s", end="; ")

    async def verify(self, namespace: str) -> list[str]:
        """When nobody writes any more: nobody has seen what is not in the log, and nothing came after the end."""
        living = [worker for worker in self.workers if worker.popen.poll() is None]
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
            for worker in living:
                while "twinwire_runs_live 0.0" not in (await client.get(f"{worker.url}/metrics")).text:
                    pass
        ends = []
        keys = Keys(namespace)
        async with raw() as redis:
            for run in self._runs:
                run_id = run.starter.run_id
                log = await rest(await attach(self._chance.choice(KINDS), self._chance.choice(living), run_id))
                ends.append(run.verify(log))
                assert await redis.xlen(keys.events(run_id)) == len(log)
            assert await redis.hlen(keys.live) == 0
        return ends


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_kill_9_and_zombies(tmp_path: Path) -> None:
    """Every client sees the whole log, each event once; an orphan ends once, in time; a zombie writes nothing more."""
    chance = seeded()
    agent = counter(tmp_path, pause=0.02)
    url = fresh(f"&lease={LEASE}")
    ends: Counter[str] = Counter()
    zombies: set[Process] = set()
    with ExitStack() as stack:

        def begin() -> Process:
            return stack.enter_context(Process("serve", agent, "--port", "0", "--log", url, cwd=tmp_path))

        def end(worker: Process, by: signal.Signals) -> None:
            worker.popen.send_signal(by)
            code, _, err = worker.end()
            assert code == -by
            assert "Traceback" not in err
            assert worker not in zombies or "The log refused the writer of the run" in err

        workers = [begin() for _ in range(WORKERS)]
        for worker in workers:
            worker.ready()
        for number in range(ROUNDS):
            crash = Crash(workers, chance)
            zombie = number % 3 == 1
            await crash.play(zombie=zombie)
            ends.update(await crash.verify(Address(url).namespace))
            if zombie and crash.orphaned:
                zombies.add(crash.victim)
            if not zombie:
                end(crash.victim, signal.SIGKILL)
                workers.remove(crash.victim)
                workers.append(begin())
                workers[-1].ready()
        for worker in workers:
            end(worker, signal.SIGTERM)
    print(dict(ends))
    assert set(ends) == {"completed", "cancelled", "interrupted"}
