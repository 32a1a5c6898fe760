"""Connections that are cut at random bytes: every client has every event once, in order (P1, P2, P9)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random

import httpx
import pytest
from websockets.exceptions import WebSocketException

from faults.leaks import leakless
from support.chaos import Proxy, chaos
from support.followers import KINDS, AnyFollower, Broken, attach, number
from support.serving import Running, serving, until
from support.talker import Talker

CLIENTS = 16
GONE = (Broken, OSError, httpx.TransportError, WebSocketException)


class Client:
    """Follows a run through all cuts; `digest` is of all that it took."""

    def __init__(self, kind: str, proxy: Proxy, run_id: str) -> None:
        self._kind = kind
        self._proxy = proxy
        self._run_id = run_id
        self._hash = hashlib.sha256()
        self.last = 0
        self.cuts = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    async def run(self) -> None:
        while not await self._connected():
            self.cuts += 1

    async def _connected(self) -> bool:
        """One connection's events; whether it came to the end."""
        follower: AnyFollower | None = None
        try:
            follower = await attach(self._kind, self._proxy, self._run_id, self.last)
            while (body := await follower.next()) is not None:
                self._hash.update(body)
                event = json.loads(body)
                assert number(event) == self.last + 1
                self.last += 1
        except GONE:
            return False
        finally:
            if follower is not None:
                await follower.close()
        assert event["type"] == "AGENT_FINISH", event["data"]
        assert event["metadata"]["events"] == self.last
        return True


async def digest_of_the_log(server: Running, run_id: str) -> str:
    """What a client's digest must be."""
    found, after = hashlib.sha256(), 0
    while records := (await server.runs.log.page(run_id, after, 1000)).records:
        for record in records:
            found.update(record.body)
        after = records[-1].seq
    return found.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "cuts", [300, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(1200)])], ids=str
)
async def test_random_disconnects(kind: str, cuts: int, chance: random.Random) -> None:
    """So many connections are reset after a random number of bytes; all clients' digests are the log's."""
    talker = Talker(chance)
    async with serving({"mine": talker}, run_timeout=1200) as server, leakless(server), chaos(server.port) as proxy:
        proxy.budgets.extend(chance.choice([50, 300, 1000, 5000]) + chance.randrange(300) for _ in range(cuts))
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as http:
            started = await http.post("/runs", json={"message": "talk"})
        run_id = started.json()["run_id"]
        clients = [Client(kind, proxy, run_id) for _ in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())
            await until(lambda: not proxy.budgets)
            talker.stop.set()
        seen = await digest_of_the_log(server, run_id)
    assert [client.digest for client in clients] == [seen] * CLIENTS
    assert sum(client.cuts for client in clients) >= cuts
    print(f"{kind}: {sum(client.cuts for client in clients)} cuts, {CLIENTS} clients, {clients[0].last} events each")
