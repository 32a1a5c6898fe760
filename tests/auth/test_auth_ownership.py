"""A run is its user's: to everybody else it is exactly like one that does not exist."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from support.credentials import AUTH, asking, bearer
from support.redis_server import fresh
from support.serving import Puppets, Running, serving, until
from twinwire.auth import Identity
from twinwire.log.memory import MemoryLog
from twinwire.log.redis.link import Link
from twinwire.log.redis.log import RedisLog
from twinwire.log.sqlite.file import reading
from twinwire.log.sqlite.log import SqliteLog
from twinwire.protocol.errors import RunNotFound

UNKNOWN = "a" * 26
ASKING: ContextVar[bool] = ContextVar("asking", default=False)
"""Whether this task asks for a run whose steps are counted."""

REQUESTS = [
    ("GET", "/runs/{run}", {}),
    ("GET", "/runs/{run}/snapshot", {}),
    ("POST", "/runs/{run}/cancel", {}),
    ("GET", "/runs/{run}/events", {}),
    ("GET", "/runs/{run}/events?after=1", {}),
    ("GET", "/runs/{run}/events?after=99", {}),
    ("GET", "/runs/{run}/events", {"last-event-id": "evt-{run}-1"}),
    ("GET", "/chat/stream", {"last-event-id": "evt-{run}-1"}),
    ("GET", "/chat/stream?message=hi", {"last-event-id": "evt-{run}-99"}),
    ("POST", "/chat?after=evt-{run}-1", {}),
]
COMMANDS: list[dict[str, Any]] = [
    {"type": "attach", "run_id": "{run}"},
    {"type": "attach", "run_id": "{run}", "after": 1},
    {"type": "attach", "run_id": "{run}", "after": 99},
    {"type": "attach", "run_id": "{run}", "after": "evt-{run}-1"},
    {"type": "attach", "run_id": "{run}", "snapshot": True},
    {"type": "cancel", "run_id": "{run}"},
    {"type": "detach", "run_id": "{run}"},
    {"type": "detach", "run_id": "{run}", "leave": True},
    {"type": "pause", "run_id": "{run}"},
    {"type": "resume", "run_id": "{run}"},
    {"type": "resume", "run_id": "{run}", "after": 1},
]


def log_url(kind: str, folder: Path) -> str:
    return {"memory": "memory://", "sqlite": f"sqlite:///{folder}/runs.db", "redis": fresh()}[kind]


async def over_http(server: Running, user: str, run_id: str) -> list[tuple[int, dict[str, str], bytes]]:
    """All that HTTP tells this user of a run, without the run's id."""
    answers = []
    async with asking(server, user) as client:
        for method, path, headers in REQUESTS:
            sent = {name: value.format(run=run_id) for name, value in headers.items()}
            response = await client.request(method, path.format(run=run_id), headers=sent)
            told = {name: value for name, value in response.headers.items() if name not in {"date", "x-request-id"}}
            answers.append((response.status_code, told, response.content.replace(run_id.encode(), b"RUN")))
    return answers


async def over_ws(server: Running, user: str, run_id: str) -> list[str]:
    """All that a socket tells, likewise."""
    answers = []
    async with connect(server.ws_url, proxy=None, additional_headers=bearer(user)) as socket:
        for command in COMMANDS:
            await socket.send(json.dumps(command).replace("{run}", run_id))
            answers.append(str(await socket.recv()).replace(run_id, "RUN"))
    return answers


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
@pytest.mark.parametrize("log", ["memory", "sqlite", "redis"])
async def test_a_foreign_run_is_an_unknown_one(log: str, ended: bool, puppets: Puppets, tmp_path: Path) -> None:
    """Read, resumed, cancelled or summed up, over HTTP, SSE and WebSocket: the same status, headers and bytes."""
    async with (
        serving({"mine": puppets}, log=log_url(log, tmp_path), **AUTH) as server,
        asking(server, "alice") as alice,
    ):
        run_id = (await alice.post("/runs", json={"message": "secret"})).json()["run_id"]
        puppet = await puppets.next()
        puppet.say("secret")
        if ended:
            puppet.end()
            assert (await alice.get(f"/runs/{run_id}/events")).text.count("event: ") == 3
        assert await over_http(server, "bob", run_id) == await over_http(server, "bob", UNKNOWN)
        assert await over_ws(server, "bob", run_id) == await over_ws(server, "bob", UNKNOWN)
        assert {status for status, *_ in await over_http(server, "bob", run_id)} == {404}
        run = (await alice.get(f"/runs/{run_id}")).json()
        assert run["status"] == ("completed" if ended else "running")
        assert (await alice.get(f"/runs/{run_id}/snapshot")).json()["state"]["text"] == "secret"
        assert (await alice.post(f"/runs/{run_id}/cancel")).status_code == (200 if ended else 202)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give what is asked of a log from now on: its methods, its reader's SQL, its commands to Redis."""
    told: list[str] = []
    call = Link.call

    def traced(path: Path) -> sqlite3.Connection:
        db = reading(path)
        db.set_trace_callback(told.append)
        return db

    def called(link: Link, *command: Any) -> Any:
        if ASKING.get():  # the log's own tasks have commands of their own, whenever that is
            told.append(repr(command))
        return call(link, *command)

    monkeypatch.setattr("twinwire.log.sqlite.reader.reading", traced)
    monkeypatch.setattr(Link, "call", called)
    for log in (MemoryLog, SqliteLog, RedisLog):
        for name in ("state", "summary", "page", "cancel"):
            monkeypatch.setattr(log, name, counted(told, name, getattr(log, name)))
    return told


def counted(told: list[str], name: str, method: Any) -> Any:
    async def ask(*arguments: Any) -> Any:
        told.append(name)
        return await method(*arguments)

    return ask


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
@pytest.mark.parametrize("log", ["memory", "sqlite", "redis"])
async def test_a_foreign_run_takes_the_steps_of_an_unknown_one(
    log: str, ended: bool, puppets: Puppets, tmp_path: Path, steps: list[str]
) -> None:
    """However it is asked for, also with a ticket for another run: no time that a step takes tells that it is there."""
    async with serving({"mine": puppets}, log=log_url(log, tmp_path), **AUTH) as server:
        runs = server.runs
        async with asking(server, "alice") as alice:
            run_id = (await alice.post("/runs", json={"message": "secret"})).json()["run_id"]
            puppet = await puppets.next()
            puppet.say("secret")
            if ended:
                puppet.end()
            await until(lambda: bool(runs._live) != ended)
            if log == "sqlite":
                await until(lambda: (run_id in runs.log._live) != ended)  # type: ignore[attr-defined]
        other = "b" * 26
        asked: dict[str, Any] = {
            "state": runs.state,
            "summary": runs.summary,
            "seek": lambda run_id, by: runs.seek(run_id, 0, by),
            "claim": runs.claim,
            "snapshot": runs.snapshot,
            "cancel": runs.cancel,
        }
        for name, ask in asked.items():
            for by in (Identity("bob"), Identity("alice", run_id=other), Identity("bob", run_id=other)):
                taken = []
                for asked_for in (run_id, UNKNOWN):
                    with suppress(RunNotFound):  # the connections are there, whichever thread reads
                        await asyncio.gather(*(ask(asked_for, by) for _ in range(8)))
                    await asyncio.sleep(0.05)  # the others of these
                    steps.clear()
                    token = ASKING.set(True)
                    with pytest.raises(RunNotFound):
                        await ask(asked_for, by)
                    ASKING.reset(token)
                    taken.append([step.replace(asked_for, "RUN") for step in steps])
                assert taken[0] == taken[1], name
                assert taken[0], name


async def test_keys_are_each_user_s_own(puppets: Puppets) -> None:
    """The same idempotency key of two users is two runs; neither learns of the other's."""
    async with serving({"mine": puppets}, **AUTH) as server:
        started: dict[str, str] = {}
        for user in ("alice", "bob", "alice"):
            async with asking(server, user) as client:
                response = await client.post("/runs", json={"message": f"of {user}", "idempotency_key": "k"})
                started.setdefault(user, response.json()["run_id"])
                assert response.json()["run_id"] == started[user]
        assert started["alice"] != started["bob"]
        assert puppets.started == 2


async def test_sessions_are_each_user_s_own(puppets: Puppets) -> None:
    """The same session id of two users is two conversations."""
    async with serving({"mine": puppets}, **AUTH) as server:
        for user, before in (("alice", 0), ("bob", 0), ("alice", 2)):
            async with asking(server, user) as client:
                asked = client.build_request("GET", f"/chat/stream?message={user}&session_id=s")
                response = await client.send(asked, stream=True)
                puppet = await puppets.next()
                assert len(puppet.request.history) == before
                assert all("bob" not in message["content"] for message in puppet.request.history)
                puppet.end()
                await response.aread()


async def test_a_foreign_run_cannot_be_interrupted(puppets: Puppets) -> None:
    """A message of another user in a session of the same name leaves the run alone."""
    async with serving({"mine": puppets}, **AUTH) as server, asking(server, "alice") as alice:
        run = (await alice.post("/runs", json={"message": "hi", "session_id": "s"})).json()
        async with asking(server, "bob") as bob:
            body = {"message": "hi", "session_id": "s", "interrupt": True}
            assert (await bob.post("/runs", json=body)).status_code == 201
        assert (await alice.get(f"/runs/{run['run_id']}")).json()["status"] == "running"


async def test_without_authentication_a_run_id_is_enough(server: Running) -> None:
    """As it was: who knows a run's id may follow and cancel it."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        run = (await client.post("/runs", json={"message": "hi", "user_id": "alice"})).json()
        assert (await client.get(f"/runs/{run['run_id']}")).json() == run
        assert (await client.post(f"/runs/{run['run_id']}/cancel")).status_code == 202
