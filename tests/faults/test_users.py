"""Users who do all at once with their own and each other's runs: nobody sees a byte of anybody else's (P8)."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from faults.leaks import leakless
from support.credentials import TOKENS, asking, bearer
from support.serving import serving
from twinwire import RunRequest, StreamEvent

USERS: dict[str, Any] = {
    "auth_tokens": tuple(f"{user}:{token}" for user, token in TOKENS.items()),
    "user_runs": 10_000,
    "user_starts": 1_000_000,
    "socket_rate": 100_000,
    "log_events": 50,
}
UNKNOWN = "a" * 26
DOES = ("start", "stream", "get", "events", "resume", "snapshot", "cancel", "ticket", "attach", "ws cancel", "session")


async def mine(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """An agent that says whose it is and what was said before."""
    before = " ".join(message["content"] for message in request.history)
    for word in (f"secret-of-{request.user_id}", before[-200:]):
        yield StreamEvent("LLM_CHUNK", {"content": word, "delta": word})
        await asyncio.sleep(0.001)


class User:
    """One of them, with the ids of their own runs; `foreign` chooses one of somebody else's."""

    def __init__(self, name: str, client: httpx.AsyncClient, socket: ClientConnection, chance: random.Random) -> None:
        self.name = name
        self.runs: list[str] = []
        self._client = client
        self._socket = socket
        self._chance = chance
        self._refs = 0
        self.foreign: Callable[[], str] = lambda: UNKNOWN
        self.done: Counter[str] = Counter()

    async def act(self) -> None:
        """One operation, on a run of one's own or of somebody else's."""
        what = self._chance.choice(DOES)
        whose = self._chance.choice(["own", "foreign"]) if self.runs else "own"
        if what in {"start", "stream", "session"} or not self.runs:
            await self._start(what)
            whose = "own"
        else:
            run_id = self._chance.choice(self.runs) if whose == "own" else self.foreign()
            seen = await self._ask(what, run_id)
            if whose == "foreign":
                assert seen.replace(run_id, UNKNOWN) == await self._ask(what, UNKNOWN), (what, run_id)
            self._check(seen)
        self.done[f"{what} {whose}"] += 1

    def _check(self, seen: str) -> None:
        assert not [other for other in TOKENS if other != self.name and f"secret-of-{other}" in seen], seen

    async def _start(self, what: str) -> None:
        body = {"message": f"secret-of-{self.name}"} | ({"session_id": "common"} if what == "session" else {})
        if what == "start":
            answer = await self._client.post("/runs", json=body)
            self.runs.append(answer.json()["run_id"])
        else:
            answer = await self._client.post("/chat/stream", json=body)
            self.runs.append(answer.headers["twinwire-run"])
        assert answer.status_code in {200, 201}
        self._check(answer.text)

    async def _ask(self, what: str, run_id: str) -> str:
        if what in {"attach", "ws cancel"}:
            return await self._say(what.removeprefix("ws "), run_id)
        if what == "cancel":
            answer = await self._client.post(f"/runs/{run_id}/cancel")
        elif what == "ticket":
            answer = await self._client.post("/tickets", json={"run_id": run_id})
        elif what == "resume":
            answer = await self._client.get("/chat/stream", headers={"last-event-id": f"evt-{run_id}-1"})
        else:
            path = {"get": "", "events": "/events", "snapshot": "/snapshot"}[what]
            answer = await self._client.get(f"/runs/{run_id}{path}")
        headers = sorted(
            (name, value) for name, value in answer.headers.items() if name not in {"date", "x-request-id"}
        )
        return f"{answer.status_code} {headers} {answer.text}"

    async def _say(self, what: str, run_id: str) -> str:
        """A command's reply, and all that came before it on the socket."""
        self._refs += 1
        await self._socket.send(json.dumps({"type": what, "run_id": run_id, "ref": self._refs}))
        seen = ""
        while True:
            text = str(await self._socket.recv())
            self._check(text)
            if json.loads(text).get("ref") == self._refs:
                return text.replace(f'"ref":{self._refs}', "")
            seen += text


@pytest.mark.parametrize(
    "operations", [2_000, pytest.param(100_000, marks=[pytest.mark.full, pytest.mark.timeout(1800)])], ids=str
)
async def test_mixed_operations(operations: int, chance: random.Random) -> None:
    """So many operations: what is another's is answered as what does not exist, over HTTP and WebSocket alike."""
    left = iter(range(operations))

    async def work(user: User) -> None:
        for _ in left:
            await user.act()

    async with serving({"mine": mine}, **USERS) as server, leakless(server):
        users = []
        for name in TOKENS:
            socket = await connect(server.ws_url, proxy=None, compression=None, additional_headers=bearer(name))
            users.append(User(name, asking(server, name), socket, chance))
        for user in users:
            others = [other for other in users if other is not user]
            user.foreign = lambda others=others: chance.choice(chance.choice(others).runs or [UNKNOWN])  # type: ignore[misc]
        async with asyncio.TaskGroup() as group:
            for user in users:
                group.create_task(work(user))
        for user in users:
            await user._client.aclose()
            await user._socket.close()
    done = sum((user.done for user in users), Counter[str]())
    assert done.total() == operations
    print(dict(sorted(done.items())))
    assert {f"{what} foreign" for what in DOES if what not in {"start", "stream", "session"}} <= set(done)
