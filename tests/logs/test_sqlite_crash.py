"""`kill -9` of a server with a SQLite log, at random moments: what clients saw is in the log, every run gets an end.

`CRASH_ROUNDS=20` for more of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import WebSocketException

from support.crashes import counter, seeded
from support.followers import KINDS, OTHER, Broken, attach, check, number, rest, start
from support.processes import Process

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "2"))
RUNS = 4  # of each transport, in each round


class Seen:
    """A client that starts a run and takes what comes until its server dies."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.run_id = ""
        self.bodies: list[bytes] = []

    async def watch(self, process: Process, words: int) -> None:
        try:
            follower = await start(self.kind, process, str(words), on_disconnect="continue")
            self.run_id = follower.run_id
            try:
                while (body := await follower.next()) is not None:
                    self.bodies.append(body)
            finally:
                await follower.close()
        except (Broken, OSError, httpx.TransportError, WebSocketException):
            pass

    async def verify(self, process: Process) -> str:
        """After the restart: the log has what was seen, resuming repeats and loses nothing; how the run ended."""
        if not self.run_id:
            return "never started"
        log = await rest(await attach(OTHER[self.kind], process, self.run_id, 0))
        seen = [json.loads(body) for body in self.bodies]
        assert seen == log[: len(seen)]
        assert number(log[0]) == 1
        if len(seen) < len(log):
            for kind in KINDS:
                resumed = await rest(await attach(kind, process, self.run_id, len(seen)))
                check([*seen, *resumed])
                assert [*seen, *resumed] == log
        if log[-1]["type"] == "ERROR":
            assert log[-1]["data"]["error_type"] == "interrupted"
            assert log[-1]["data"]["message"] == log[-1]["data"]["error"]
        return str(log[-1]["type"])


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_kill_9(tmp_path: Path) -> None:
    """Ids seen are a subset of the log, with 0 gaps and 0 duplicates after resuming, and one terminal event per run."""
    chance = seeded()
    agent = counter(tmp_path, pause=0.002)
    ends: list[str] = []
    clients: list[Seen] = []
    for _ in range(ROUNDS + 1):
        command = ("serve", agent, "--port", "0", "--log", "sqlite:///runs.db")
        with Process(*command, cwd=tmp_path) as process:
            process.ready()
            ends += await asyncio.gather(*(client.verify(process) for client in clients))
            clients = [Seen(kind) for kind in KINDS * RUNS]
            watching = [
                asyncio.create_task(client.watch(process, chance.choice([0, 3, 100, 1000, 100_000])))
                for client in clients
            ]
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            process.popen.send_signal(signal.SIGKILL)
            await asyncio.gather(*watching)
            process.popen.wait(10)
    assert len(ends) == ROUNDS * RUNS * 2
    assert ends.count("ERROR") + ends.count("AGENT_FINISH") + ends.count("never started") == len(ends)
    print(Counter(ends))
    assert "ERROR" in ends
