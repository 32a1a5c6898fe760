"""Bursts of more events than the log keeps: who reads as fast as it can gets all of them, whoever else does not."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.frames import Opcode

from support.followers import KINDS, AnyFollower, WsFollower, attach, cancel, check, number, rest, start
from support.following import Transport, both, connected, numbers
from support.http_wire import HOST
from support.redis_server import fresh
from support.serving import Puppets, Running, echo, serving, until
from support.stalled import HANDSHAKE, stalled
from support.websocket_wire import masked
from twinwire import StreamEvent
from twinwire.agents import RunRequest
from twinwire.log.backpressure import WAIT_SECONDS, Backpressure
from twinwire.models.adapters import PushStream, Take
from twinwire.protocol.errors import RunTimeout
from twinwire.runs.registry import Runs

LOGS = ("memory", "sqlite", "redis")
KEPT = 1000
COUNT = 6000
"""The events that a log keeps of a run here, and those of a burst."""


def said(count: int, size: int = 0) -> list[StreamEvent]:
    """Return the events of a burst: pieces of an answer, or others with so many characters."""
    if size:
        return [StreamEvent("NOISE", {"noise": "x" * size}) for _ in range(count)]
    return [StreamEvent("LLM_CHUNK", {"content": "x", "delta": "x"}) for _ in range(count)]


def agents(go: asyncio.Event, count: int = COUNT, size: int = 0) -> dict[str, Any]:
    """Return agents that tell a burst once the event is set, each in a way of its own."""

    async def yields(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        await go.wait()
        for event in said(count, size):
            yield event

    async def emits(request: RunRequest) -> None:
        await go.wait()
        for at in range(0, count, 3000):
            if (drained := request.emit(*said(min(3000, count - at), size))) is not None:
                await drained

    async def ignores(request: RunRequest) -> None:
        await go.wait()
        for event in said(count, size):
            request.emit(event)

    async def calls_back(request: RunRequest) -> None:
        await go.wait()
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def some(left: int) -> None:
            request.emit(*said(min(3000, left), size))
            loop.call_soon(some, left - 3000) if left > 3000 else done.set()

        loop.call_soon(some, count)
        await done.wait()

    def pushes(_: RunRequest) -> PushStream[StreamEvent]:
        async def produce(take: Take[StreamEvent]) -> None:
            await go.wait()
            for event in said(count, size):
                if (drained := take(event)) is not None:
                    await drained

        return PushStream(produce)

    return {agent.__name__: agent for agent in (yields, emits, ignores, calls_back, pushes)}


AGENTS = tuple(agents(asyncio.Event()))


def address(log: str, folder: Path) -> str:
    """Return the URL of an empty log of this kind."""
    return {"memory": "memory://", "sqlite": f"sqlite:///{folder}/log.db", "redis": ""}[log] or fresh()


@asynccontextmanager
async def bursting(
    url: str, go: asyncio.Event, count: int = COUNT, size: int = 0, **settings: Any
) -> AsyncIterator[Running]:
    """Serve the agents, and `echo`, on this log, which keeps `KEPT` events of a run."""
    served = {**agents(go, count, size), "echo": echo}
    async with serving(served, **{"log": url, "log_events": KEPT, **settings}) as server:
        yield server


async def followed(server: Running, count: int) -> None:
    """Wait until runs have so many followers."""
    await until(lambda: sum(len(pump._followers) for pump in server.service.heartbeats.pumps) == count)


async def trimmed(server: Running, run_id: str) -> None:
    """Wait until the log keeps no more of a run than it should."""
    async with asyncio.timeout(5):
        while (state := await server.runs.log.state(run_id)).last - state.first >= KEPT:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


def whole(seen: list[dict[str, Any]], count: int = COUNT) -> None:
    """Check that these are all events of a completed burst."""
    assert number(seen[0]) == 1
    assert len(seen) == count + 2
    assert seen[-1]["data"]["status"] == "completed"


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_burst_reaches_its_followers(kind: str, agent: str, log: str, tmp_path: Path) -> None:
    """Two followers get all of a burst of six times as many events as the log keeps, which then keeps no more."""
    go = asyncio.Event()
    async with bursting(address(log, tmp_path), go) as server:
        first = await start(kind, server, agent=agent)
        second = await attach(kind, server, first.run_id)
        await followed(server, 2)
        go.set()
        seen, same = await asyncio.gather(rest(first), rest(second))
        whole(seen)
        assert same == seen
        await trimmed(server, first.run_id)


@pytest.mark.parametrize("below", ["plain"], indirect=True)
@pytest.mark.usefixtures("below")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_burst_reaches_followers_on_another_server(kind: str, below: None) -> None:
    """On uvicorn's own protocols, where every follower pages, all of a burst reaches its follower as well."""
    go = asyncio.Event()
    async with bursting("memory://", go) as server:
        follower = await start(kind, server, agent="emits")
        await followed(server, 1)
        go.set()
        whole(await rest(follower))


@pytest.mark.full
@pytest.mark.parametrize("kept", [KEPT, 100_000])
@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_largest_burst(kind: str, log: str, kept: int, tmp_path: Path) -> None:
    """A burst of as many events as a run may have reaches its follower, whether the log keeps a thousand or many."""
    go, count = asyncio.Event(), 999_998
    bounds: dict[str, Any] = {"run_bytes": 2**29, "live_bytes": 2**30, "run_timeout": 500.0}
    async with bursting(address(log, tmp_path), go, count, log_events=kept, **bounds) as server:
        follower = await start(kind, server, agent="emits")
        await followed(server, 1)
        go.set()
        whole(await rest(follower), count)


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_burst_reaches_a_late_joiner(kind: str, log: str, tmp_path: Path) -> None:
    """A follower that has just begun to read what the log has gets all of the burst that begins then."""
    puppets = Puppets()
    async with serving({"mine": puppets}, log=address(log, tmp_path), log_events=KEPT) as server:
        first = await start(kind, server)
        puppet = await puppets.next()
        puppet.say(*"x" * (KEPT - 100))
        await until(lambda: server.runs.log.newest(first.run_id) == KEPT - 99)
        joining = asyncio.create_task(attach(kind, server, first.run_id))
        await followed(server, 2)
        puppet.say(*"x" * (COUNT - KEPT + 100))
        puppet.end()
        for seen in await asyncio.gather(rest(first), rest(await joining)):
            whole(seen)


@pytest.mark.parametrize("log", LOGS)
async def test_a_burst_reaches_who_pauses(log: str, tmp_path: Path) -> None:
    """A socket that pauses the run in the middle of a burst, and resumes it soon, gets all of it."""
    go = asyncio.Event()
    async with bursting(address(log, tmp_path), go) as server:
        follower = await start("ws", server, agent="emits")
        assert isinstance(follower, WsFollower)
        go.set()
        seen: list[dict[str, Any]] = []
        while len(seen) < COUNT + 2:
            event = json.loads(await follower.receive())
            if event["type"].islower():
                assert event["type"] in {"paused", "resumed"}
                if event["type"] == "paused":
                    await until(lambda: blocked(server, follower.run_id) or len(server.runs) == 0)
                    await follower.say({"type": "resume", "run_id": follower.run_id})
                continue
            seen.append(event)
            if len(seen) % 1000 == 0:
                await follower.say({"type": "pause", "run_id": follower.run_id})
        whole(seen)
        await follower.close()


@both
async def test_a_burst_reaches_a_client(transport: Transport) -> None:
    """The Python client, which pauses a run on a socket itself, gets all of a burst, over either transport."""
    go = asyncio.Event()
    async with (
        bursting("memory://", go) as server,
        connected(server.url, transport=transport) as client,
        client.stream("hi", agent="emits") as run,
    ):
        go.set()
        events = [event async for event in run]
    assert numbers(events) == list(range(1, COUNT + 3))


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("limit", [{}, {"log_events": 100_000, "log_bytes": 2**18}], ids=["events", "bytes"])
async def test_bursts_of_several_runs_on_one_socket(limit: dict[str, int], log: str, tmp_path: Path) -> None:
    """A socket that follows four runs gets all of their bursts, whether their number or their bytes are bounded."""
    go = asyncio.Event()
    async with bursting(address(log, tmp_path), go, **limit) as server:
        follower = await start("ws", server, agent="emits")
        assert isinstance(follower, WsFollower)
        seen: dict[str, list[dict[str, Any]]] = {follower.run_id: []}
        for agent in ("yields", "pushes", "calls_back"):
            await follower.say({"type": "start", "request_id": agent, "message": "hi", "agent": agent})
            reply = await follower.reply()
            assert reply["type"] == "started", reply
            seen[reply["run_id"]] = []
        go.set()
        ended = 0
        while ended < 4:
            event = json.loads(await follower.receive())
            assert event["type"].isupper(), event
            seen[event["id"].split("-")[1]].append(event)
            ended += event["type"] == "AGENT_FINISH"
        for events in seen.values():
            check(events)
            whole(events)
        await follower.close()


async def one_that_reads_nothing(kind: str, server: Running, run_id: str) -> socket.socket:
    """Follow this run and read nothing of it."""
    if kind == "sse":
        return await stalled(server, f"GET /runs/{run_id}/events HTTP/1.1\r\n".encode() + HOST + b"\r\n")
    command = json.dumps({"type": "attach", "run_id": run_id}).encode()
    return await stalled(server, HANDSHAKE + b"\r\n", masked(Opcode.TEXT, command))


def backpressure(server: Running, run_id: str) -> Backpressure:
    """Return the backpressure of this run's followers."""
    found = server.runs.log._tail(run_id).backpressure  # type: ignore[attr-defined]
    assert isinstance(found, Backpressure)
    return found


def blocked(server: Running, run_id: str) -> bool:
    """Return whether the run waits for its followers."""
    run = server.runs._live.get(run_id)
    return run is not None and run.writer.most == 0


async def held_up(
    kind: str, server: Running, agent: str, go: asyncio.Event
) -> tuple[AnyFollower, socket.socket, asyncio.Task[list[dict[str, Any]]]]:
    """Start a run that waits for one who reads nothing. Return its follower, that one, and what the follower reads."""
    first = await start(kind, server, agent=agent)
    bare = await one_that_reads_nothing(kind, server, first.run_id)
    await followed(server, 2)
    reading = asyncio.create_task(rest(first))
    go.set()
    await until(lambda: blocked(server, first.run_id))
    return first, bare, reading


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("kind", KINDS)
async def test_who_reads_nothing_holds_up_nobody_for_long(kind: str, log: str, tmp_path: Path) -> None:
    """A run waits a second for a follower that reads nothing, which is told so; another follower gets all of it."""
    go = asyncio.Event()
    async with bursting(address(log, tmp_path), go, size=2000) as server:
        first, bare, reading = await held_up(kind, server, "emits", go)
        other = await rest(await start(kind, server, "another run", agent="echo"))
        assert other[-1]["data"]["result"] == "another run "
        keep = backpressure(server, first.run_id)
        whole(await reading)
        assert keep._waited < WAIT_SECONDS
        loop, told = asyncio.get_running_loop(), b""
        while b'"type":"gap"' not in told and (more := await loop.sock_recv(bare, 2**16)):
            told = told[-100:] + more
        assert (b'"type":"gap"' in told) == (kind == "ws")
        assert not told.endswith(b"0\r\n\r\n")
        bare.close()


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("end", ["cancelled", "timeout"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_that_waits_ends_at_once(kind: str, end: str, log: str, tmp_path: Path) -> None:
    """A cancel, or the deadline, ends a run that waits for a follower, while it waits; another follower gets it all."""
    go = asyncio.Event()
    async with bursting(address(log, tmp_path), go, size=2000, run_timeout=60) as server:
        first, bare, reading = await held_up(kind, server, "pushes", go)
        if end == "cancelled":
            assert await cancel(kind, server, first.run_id) == "accepted"
        else:
            server.runs._live[first.run_id].hurry(RunTimeout(60.0), 0)
            server.runs._live[first.run_id]._expire()
        await until(lambda: len(server.runs) == 0)
        assert backpressure(server, first.run_id).due
        data = (await reading)[-1]["data"]
        assert data.get("error_type", data.get("status")) == end
        bare.close()


@pytest.mark.parametrize("log", LOGS)
async def test_a_run_without_followers_never_waits(log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst that nobody follows, but one who waits for the result alone, waits for nobody."""
    waited: list[str] = []
    monkeypatch.setattr(Runs, "block", lambda _, run_id: waited.append(run_id))
    go = asyncio.Event()
    go.set()
    async with bursting(address(log, tmp_path), go) as server, httpx.AsyncClient(trust_env=False, timeout=20) as client:
        body = {"message": "hi", "agent": "emits", "stream": False}
        answer = (await client.post(f"{server.url}/chat", json=body)).json()
        assert answer["result"] == "x" * COUNT
        state = await server.runs.log.state(answer["run_id"])
        assert state.last - state.first < KEPT
    assert waited == []


@pytest.mark.parametrize("agent", ["emits", "ignores"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_burst_reaches_another_worker(kind: str, agent: str) -> None:
    """Followers on another worker that shares the log get all of a burst, as those on the run's own do."""
    go, url = asyncio.Event(), fresh()
    async with bursting(url, go) as here, bursting(url, go) as there:
        first = await start(kind, here, agent=agent)
        others = [await attach(each, there, first.run_id) for each in KINDS]
        await followed(there, 2)
        while not await here.runs.log.followed(first.run_id):
            pass
        go.set()
        for seen in await asyncio.gather(rest(first), *(rest(other) for other in others)):
            whole(seen)
        await trimmed(here, first.run_id)
