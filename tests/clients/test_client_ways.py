"""The Python client's ways to a server: one socket for many runs, another transport where one is muted, new tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from support.chaos import chaos
from support.credentials import AUTH, TOKENS
from support.following import Transport, both, connected, numbers, words
from support.serving import Puppets, Running, serving, until
from twinwire.transports import Verdict
from twinwire_client import ProtocolError, Unauthenticated, events
from twinwire_client.events import Event
from twinwire_client.ws import MAX_WAITING


async def test_one_socket_for_many_runs(server: Running, puppets: Puppets) -> None:
    """All runs of a client share one socket, in whatever order they are read; one that is left disturbs no other."""
    async with chaos(server.port) as proxy, connected(proxy.url, transport="ws") as client, AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(client.stream(f"m{i}")) for i in range(10)]
        played = [await puppets.next() for _ in runs]
        for i, puppet in enumerate(played):
            puppet.say(f"a{i}")
        await runs[3].aclose()
        for i, puppet in enumerate(played):
            puppet.say(f"b{i}")
            puppet.end()
        for i, run in reversed(list(enumerate(runs))):
            if i != 3:
                assert words([event async for event in run]) == [f"a{i}", f"b{i}"]
        assert proxy.accepted == 1
        assert len(server.service.heartbeats.pumps) == 1
        again = client.attach(runs[3].run_id)
        async with again:
            assert words([event async for event in again]) == ["a3", "b3"]
        assert proxy.accepted == 1


async def test_more_runs_than_a_socket_follows(server: Running, puppets: Puppets) -> None:
    """The hundred and first run takes a second socket; each run has its events."""
    async with chaos(server.port) as proxy, connected(proxy.url, transport="ws") as client, AsyncExitStack() as stack:
        runs = [await stack.enter_async_context(client.stream(f"m{i}")) for i in range(110)]
        for i in range(110):
            puppet = await puppets.next()
            puppet.say(f"a{i}")
            puppet.end()
        for i, run in enumerate(runs):
            assert words([event async for event in run]) == [f"a{i}"]
        assert proxy.accepted == 2


async def test_one_run_twice(server: Running, puppets: Puppets) -> None:
    """A run that is followed twice by one client takes a second socket; each has all events."""
    async with chaos(server.port) as proxy, connected(proxy.url, transport="ws") as client:
        async with client.stream("m") as first, client.attach(first.run_id) as second:
            puppet = await puppets.next()
            puppet.say("a")
            puppet.end()
            assert [event async for event in first] == [event async for event in second]
        assert proxy.accepted == 2


async def test_a_slow_reader_holds_up_no_other(server: Running, puppets: Puppets) -> None:
    """Of a run that nobody reads only so much waits here; the rest waits in the log, and comes when it is read."""
    async with (
        connected(server.url, transport="ws") as client,
        client.stream("slow") as slow,
        client.stream("quick") as quick,
    ):
        loud, soft = await puppets.next(), await puppets.next()
        said = [str(number) for number in range(4 * MAX_WAITING)]
        loud.say(*said[:MAX_WAITING])
        waiting: Any = slow._connection
        (pump,) = server.service.heartbeats.pumps
        await until(pump._followers[slow.run_id].paused)
        assert await client.get(quick.run_id)  # by then all that was on its way has come
        held = len(waiting._texts)
        loud.say(*said[MAX_WAITING:])
        soft.say("b")
        soft.end()
        assert words([event async for event in quick]) == ["b"]
        await until(loud._queue.empty)
        assert len(waiting._texts) == held
        loud.end()
        assert words([event async for event in slow]) == said


@both
async def test_snapshot(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A late joiner gets the state so far and then what follows; a run that has ended is all in its state."""
    async with connected(server.url, transport=transport) as client, client.stream("m") as run:
        puppet = await puppets.next()
        puppet.say("a", "b")
        for _ in range(3):
            await anext(run)
        async with client.attach(run.run_id, snapshot=True) as late:
            assert late.snapshot is not None
            assert (late.snapshot.seq, late.snapshot.state["text"]) == (3, "ab")
            puppet.say("c")
            puppet.end()
            assert numbers([event async for event in late]) == [4, 5]
        async with client.attach(run.run_id, snapshot=True) as over:
            assert [event async for event in over] == []
            assert over.snapshot is not None
            assert over.snapshot.state["result"] == await over.wait() == "abc"


@asynccontextmanager
async def holding_back(port: int, *, sockets: bool = True) -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that holds event streams back until they are whole, as some do; its URL, and what was asked of it."""
    passed: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, server = await asyncio.open_connection("127.0.0.1", port)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            what = "ws" if b"GET /ws" in head else "sse" if b"/events" in head else "other"
            passed.append(what)
            if what == "ws" and not sockets:
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            # One request for each connection, so that its kind is known.
            server.write(head if what == "ws" else head.replace(b"Connection: keep-alive", b"Connection: close"))
            up = asyncio.create_task(_pass(reader, server))
            writer.write(await onward.read() if what == "sse" else b"")
            await _pass(onward, writer)
            await writer.drain()
            up.cancel()
        finally:
            server.close()
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve_one(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", passed
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except ConnectionError:
        pass


async def test_auto_is_sse(server: Running, puppets: Puppets) -> None:
    """Where nothing is in the way, the default is an event stream."""
    async with connected(server.url) as client, client.stream("m") as run:
        (await puppets.next()).end()
        assert await run.wait() == ""
        assert server.service.metrics.cursors["begun"] == 1


async def test_auto_moves_to_websocket(server: Running, puppets: Puppets) -> None:
    """A stream that does not begin is given up for a socket, with all events; the next run begins there."""
    async with holding_back(server.port) as (url, passed), connected(url, muted=0.3) as client:
        for _ in range(2):
            async with client.stream("m") as run:
                puppet = await puppets.next()
                puppet.say("a")
                puppet.end()
                assert words([event async for event in run]) == ["a"]
    assert [way for way in passed if way != "other"] == ["sse", "ws"]


async def test_auto_without_websocket(server: Running, puppets: Puppets) -> None:
    """Where sockets do not pass either, the stream is waited for, however long it is held back."""
    async with holding_back(server.port, sockets=False) as (url, passed), connected(url, muted=0.3) as client:

        async def follow() -> Any:
            async with client.stream("m", on_disconnect="continue") as run:
                return await run.wait()

        following = asyncio.ensure_future(follow())
        puppet = await puppets.next()
        await until(lambda: passed == ["other", "sse", "ws", "sse"])
        puppet.say("a")
        puppet.end()
        assert await following == "a"


def renewing(*tokens: str) -> tuple[Callable[[], Any], list[str]]:
    """A function that gives these tokens, one after the other, then the last one; and those that were asked for."""
    asked: list[str] = []

    async def token() -> str:
        asked.append(tokens[min(len(asked), len(tokens) - 1)])
        return asked[-1]

    return token, asked


@both
async def test_a_refused_token_is_renewed_once(transport: Transport, puppets: Puppets) -> None:
    """A function is asked for another token where one is refused, and its second refusal is the verdict."""
    async with serving({"mine": puppets}, **AUTH) as server:
        token, asked = renewing("old", TOKENS["alice"])
        async with connected(server.url, token=token, transport=transport) as client, client.stream("m") as run:
            (await puppets.next()).end()
            assert await run.wait() == ""
        assert asked[:2] == ["old", TOKENS["alice"]]
        for bad, times in ((renewing("old"), 2), (("old", []), 0)):
            async with connected(server.url, token=bad[0], transport=transport) as client:
                with pytest.raises(Unauthenticated):
                    async with client.stream("m"):
                        pass
            assert len(bad[1]) == times
    assert puppets.started == 1


@both
async def test_a_token_that_expires(transport: Transport, puppets: Puppets) -> None:
    """Where the server ends what an old token opened, the run goes on with a new one."""
    async with serving({"mine": puppets}, **AUTH) as server:
        token, asked = renewing(TOKENS["alice"])
        async with connected(server.url, token=token, transport=transport) as client, client.stream("m") as run:
            puppet = await puppets.next()
            puppet.say("a")
            await anext(run), await anext(run)
            before = len(asked)
            server.cut(Verdict.EXPIRED)
            puppet.say("b")
            puppet.end()
            assert words([event async for event in run]) == ["b"]
            assert len(asked) > before


async def test_logged_out_with_a_new_token(server: Running, puppets: Puppets) -> None:
    """A socket that is closed with 4501 is opened again where there may be a new token."""
    sockets = 0

    async def log_out_first(socket: ServerConnection) -> None:
        nonlocal sockets
        sockets += 1
        text = await socket.recv()
        run_id, ref = (str(text).split(f'"{name}":')[1].split(",")[0].strip('"}') for name in ("run_id", "ref"))
        await socket.send(f'{{"type":"attached","run_id":"{run_id}","ref":{ref},"first":1,"last":9}}')
        if sockets == 1:
            await socket.close(4501, "logged out")
        await socket.send(
            f'{{"type":"AGENT_FINISH","data":{{"result":"x"}},"metadata":{{"events":1}},"id":"evt-{run_id}-1"}}'
        )
        await socket.wait_closed()

    async with serve(log_out_first, "127.0.0.1", 0) as other:
        url = f"http://127.0.0.1:{next(iter(other.sockets)).getsockname()[1]}"
        async with connected(url, token=lambda: "t", transport="ws") as client, client.attach("b" * 26) as run:
            assert await run.wait() == "x"
    assert sockets == 2


async def test_payloads(server: Running, puppets: Puppets) -> None:
    """Each type's data is a Struct with the protocol's names; of an agent's own type there is none."""
    async with connected(server.url) as client, client.stream("m") as run:
        puppet = await puppets.next()
        puppet.emit("LLM_CHUNK", content="a", delta="a", unknown=1)
        puppet.emit("TOOL_CALL_START", tool_call_id="c", tool_name="Read", parameters={"path": "x"})
        puppet.emit("PROGRESS", progress=50)
        puppet.emit("MY_OWN", x=1)
        puppet.end()
        seen = [event.payload async for event in run]
    assert isinstance(seen[0], events.AgentStart)
    assert seen[0].input == "m"
    assert seen[1:5] == [
        events.LLMChunk("a", "a"),
        events.ToolCallStart("c", "Read", {"path": "x"}),
        events.Progress(50.0),
        None,
    ]
    assert isinstance(seen[5], events.AgentFinish)
    assert (seen[5].status, seen[5].result) == ("completed", "a")
    with pytest.raises(ProtocolError, match="LLM_CHUNK"):
        Event("LLM_CHUNK", {"content": 5}).payload  # noqa: B018


def test_a_payload_for_each_type() -> None:
    """Every type of the protocol has a Struct, with just the keys that its table names."""
    table = {
        "AGENT_START": "input config max_steps",
        "STEP_START": "step max_steps",
        "STEP_FINISH": "step action",
        "THINKING": "content",
        "LLM_CHUNK": "content delta",
        "TOOL_CALL_START": "tool_call_id tool_name parameters",
        "TOOL_CALL_FINISH": "tool_call_id tool_name result status duration",
        "PROGRESS": "progress step total",
        "INPUT_REQUESTED": "input_id kind prompt schema expires_at tool_call_id tool_name parameters",
        "INPUT_ANSWERED": "input_id answer message_id by expired",
        "USER_MESSAGE": "content message_id by",
        "RUN_RESUMED": "epoch step void_after text thinking",
        "AGENT_FINISH": "result duration status finish_reason usage reason",
        "ERROR": "error_type message retry_after usage reason",
    }
    told = {kind: " ".join(shape.__struct_fields__) for kind, shape in events._PAYLOADS.items()}
    assert told == table
