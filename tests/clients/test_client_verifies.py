"""The Python client does not trust: a server that loses, repeats or mixes up events is caught, over both transports."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from support.following import NOWHERE, Transport, both, connected, numbers
from twinwire_client import ApiError, ConnectionLost, ProtocolError

Events = Sequence[dict[str, Any] | str]


def event(number: int, kind: str = "LLM_CHUNK", *, run: str = NOWHERE, **metadata: Any) -> dict[str, Any]:
    """An event as a server sends it."""
    data = {"content": "x"}
    return {"type": kind, "data": data, "timestamp": "", "metadata": metadata, "id": f"evt-{run}-{number}"}


def end(number: int, events: int | None = None) -> dict[str, Any]:
    return event(number, "AGENT_FINISH", events=number if events is None else events)


class Liar:
    """A server that answers each connection with the next of these `answers`, and the last one for ever."""

    def __init__(self, answers: Sequence[Events]) -> None:
        self.asked: list[int] = []
        self.url = ""
        self._answers = list(answers)

    def _next(self, after: int) -> Sequence[str]:
        self.asked.append(after)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [item if isinstance(item, str) else json.dumps(item) for item in answer]

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = re.search(rb"after=(\d+)", await reader.readuntil(b"\r\n\r\n"))
        assert asked
        body = "".join(f"data: {line}\n\n" for line in self._next(int(asked[1]))).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async def socket(self, socket: ServerConnection) -> None:
        attach = json.loads(await socket.recv())
        lines = self._next(attach["after"])
        named = {name: attach[name] for name in ("run_id", "ref")}
        await socket.send(json.dumps({"type": "attached", **named, "first": 1, "last": 99}))
        for line in lines:
            await socket.send(line)


@asynccontextmanager
async def lying(transport: Transport, *answers: Events) -> AsyncIterator[Liar]:
    liar = Liar(answers)
    if transport == "sse":
        server: Any = await asyncio.start_server(liar.http, "127.0.0.1", 0)
    else:
        server = await serve(liar.socket, "127.0.0.1", 0)
    port = next(iter(server.sockets)).getsockname()[1]
    liar.url = f"http://127.0.0.1:{port}"
    try:
        yield liar
    finally:
        server.close()
        await server.wait_closed()


@both
@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ([event(1), event(3)], "event 3, but event 2 was due"),
        ([event(1), event(1)], "event 1, but event 2 was due"),
        ([event(1), event(2), event(1)], "event 1, but event 3 was due"),
        ([event(1), event(2, run="b" * 26)], "another run"),
        ([event(1), end(2, events=3)], "names 3"),
        ([event(1), event(2, "ERROR")], "names None"),
        ([event(1), {**event(2), "id": f"evt-{NOWHERE}-02"}], "without an event id"),
        ([event(1), {**event(2), "data": []}], "data"),
    ],
)
async def test_what_a_server_must_not_do(transport: Transport, events: Events, complaint: str) -> None:
    """Events that are lost, repeated, of another run, or more or fewer than the end says are a `ProtocolError`."""
    async with lying(transport, events) as liar, connected(liar.url) as client:
        async with client.attach(NOWHERE, transport=transport) as run:
            assert numbers([await anext(run)]) == [1]
            with pytest.raises(ProtocolError, match=complaint):
                await run.wait()
        assert liar.asked == [0]


@both
async def test_end_without_a_terminal_event(transport: Transport) -> None:
    """A connection that ends cleanly before the run did is made again at the cursor."""
    answers: tuple[Events, ...] = [event(1), event(2)], [], [event(3), {"type": "NEW_KIND", **end(4), "new": 1}]
    async with lying(transport, *answers) as liar, connected(liar.url) as client:
        async with client.attach(NOWHERE, transport=transport) as run:
            assert numbers([event async for event in run]) == [1, 2, 3, 4]
        assert liar.asked == [0, 2, 2]


@both
async def test_progress_counts(transport: Transport) -> None:
    """Only failures in a row are counted: a connection on which an event came was none."""
    answers: list[Events] = [[event(number)] for number in range(1, 6)]
    async with lying(transport, *answers, []) as liar, connected(liar.url, max_attempts=2) as client:
        async with client.attach(NOWHERE, transport=transport) as run:
            for _ in range(5):
                await anext(run)
            with pytest.raises(ConnectionLost, match="2 attempts"):
                await anext(run)
        assert liar.asked == [0, 1, 2, 3, 4, 5]


@both
async def test_garbage(transport: Transport) -> None:
    """What is no JSON is a `ProtocolError`."""
    async with lying(transport, ["}{"]) as liar, connected(liar.url) as client:
        run = client.attach(NOWHERE, transport=transport)
        async with run:
            with pytest.raises(ProtocolError, match="not well-formed"):
                await anext(run)


@pytest.mark.parametrize(("code", "final"), [(1011, False), (1012, False), (4008, False), (1008, True), (4500, True)])
async def test_close_codes(code: int, final: bool) -> None:
    """A close code tells whether to come again, in words: it is no status."""

    async def close(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.close(code, "because")

    async with serve(close, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with connected(url, max_attempts=2) as client:
            with pytest.raises(ApiError if final else ConnectionLost, match=rf"{code} \(because\)") as caught:
                async with client.attach(NOWHERE, transport="ws"):
                    pass
    assert getattr(caught.value, "status", -1) == (400 if code == 4500 else None)


async def test_broken_frames() -> None:
    """A socket on which no WebSocket is spoken any more is a broken connection."""
    connections = 0

    async def scramble(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await socket.recv()
        socket.transport.write(b"\xff\xff\xff\xff")
        await socket.wait_closed()

    async with serve(scramble, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with connected(url, max_attempts=2) as client:
            with pytest.raises(ConnectionLost):
                async with client.attach(NOWHERE, transport="ws"):
                    pass
    assert connections == 2
