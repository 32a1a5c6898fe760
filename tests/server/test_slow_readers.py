"""Readers that take little or nothing: dropped once they take nothing for too long, and served as long as they do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from litestar import get
from websockets.frames import Opcode

from support.followers import KINDS, start
from support.http_wire import GET, HOST, POST, answered, connected
from support.serving import Puppets, Running, serving, until
from support.stalled import HANDSHAKE, lines, nothing_left, stalled
from support.websocket_wire import masked
from twinwire import StreamEvent
from twinwire.agents import RunRequest
from twinwire.serving.websocket import BoundedWebSocket
from twinwire.transports import lifetime


async def large(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """An agent whose result has as many megabytes as its message says."""
    for _ in range(int(request.message)):
        yield StreamEvent(type="LLM_CHUNK", data={"content": "x" * 1_000_000, "delta": "x" * 1_000_000})
        await asyncio.sleep(0)  # it holds up nobody


async def large_run(server: Running, megabytes: int) -> bytes:
    """Return the request for a run whose result is large."""
    async with connected(server) as (reader, writer):
        body = json.dumps({"message": str(megabytes)}).encode()
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        run_id = json.loads((await answered(reader))[2])["run_id"]
    await until(lambda: not server.runs._tasks)
    return f"GET /runs/{run_id} HTTP/1.1\r\n".encode() + HOST + b"\r\n"


async def test_a_slow_reader_of_a_plain_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Who takes nothing of an answer for the send timeout is dropped and counted, and what it had unsent is let go."""
    async with serving({"large": large}, send_timeout=0.4) as server:
        request = await large_run(server, 8)
        slow = [await stalled(server, request) for _ in range(3)]
        await until(lambda: server.service.lifetimes._unsent > 8_000_000)
        await nothing_left(server)
        assert server.service.metrics.refused["unread"] == 3
        for bare in slow:
            bare.close()
    assert lines(caplog) == []


async def test_a_reader_that_is_merely_slow() -> None:
    """Who takes a plain answer bit by bit, for much longer than the send timeout, gets all of it."""
    async with serving({"large": large}, send_timeout=1) as server:
        request = await large_run(server, 8)
        bare = await stalled(server, request)
        loop, size = asyncio.get_running_loop(), 0
        for _ in range(20):
            await asyncio.sleep(0.12)  # the reader's own pace
            size += len(await loop.sock_recv(bare, 100_000))
        assert server.service.lifetimes.accepted == 1
        async with asyncio.timeout(10):
            while size < 8_000_000:
                more = await loop.sock_recv(bare, 2**20)
                assert more
                size += len(more)
        bare.close()


@get("/large", sync_to_thread=False, media_type="text/plain")
def whole() -> bytes:
    """An answer that is sent in one piece."""
    return b"x" * 8_000_000


async def test_a_handshake_behind_an_answer_that_is_not_read() -> None:
    """The socket that opens behind it is not writable before its client has taken the answer."""
    async with serving(None) as server, asyncio.timeout(10):
        server.server.config.app.register(whole)  # type: ignore[union-attr, arg-type]
        bare = await stalled(server, GET.replace(b"/healthz", b"/large") + b"\r\n" + HANDSHAKE + b"\r\n")
        await until(lambda: any(isinstance(one, BoundedWebSocket) for one in server.server.server_state.connections))
        [protocol] = server.server.server_state.connections
        assert isinstance(protocol, BoundedWebSocket)
        assert protocol.unsent() > 1_000_000
        assert not protocol.writable.is_set()
        reader, writer = await asyncio.open_connection(sock=bare)
        assert (await answered(reader))[0] == 200
        assert (await answered(reader))[0] == 101
        assert protocol.writable.is_set()
        writer.close()
        await nothing_left(server)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_follower_that_is_merely_slow(kind: str, puppets: Puppets) -> None:
    """A follower that takes one large event bit by bit, for much longer than the send timeout, gets all of it."""
    async with serving({"mine": puppets}, send_timeout=1) as server:
        first = await start(kind, server)
        puppet = await puppets.next()
        puppet.emit("NOISE", noise="x" * 12_000_000)
        puppet.end()
        if kind == "sse":
            requests = [f"GET /runs/{first.run_id}/events HTTP/1.1\r\n".encode() + HOST + b"\r\n"]
        else:
            attach_ = json.dumps({"type": "attach", "run_id": first.run_id}).encode()
            requests = [HANDSHAKE + b"\r\n", masked(Opcode.TEXT, attach_)]
        loop, seen = asyncio.get_running_loop(), b""
        began = loop.time()
        async with connected(server) as (reader, writer):
            for request in requests:
                writer.write(request)
            while b"completed" not in seen[-400:]:
                piece = await reader.read(64 * 1024)
                assert piece, f"cut off after {len(seen)} bytes and {loop.time() - began:.1f} s"
                seen += piece
                await asyncio.sleep(0.02)  # slow, though never silent for as long as the send timeout
        assert len(seen) > 12_000_000
        assert loop.time() - began > 2
        await first.close()


async def test_all_answers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bound of what all answers may have unsent the reader that waits for longest goes; others are served."""
    monkeypatch.setattr(lifetime, "ANSWER_BYTES", 20_000_000)
    async with serving({"large": large}) as server:
        request = await large_run(server, 4)
        slow = []
        for _ in range(12):
            slow.append(await stalled(server, request))
            await until(lambda: server.service.lifetimes._unsent > 0)
        await until(lambda: server.service.metrics.refused["unread"] >= 7)
        assert server.service.lifetimes._unsent <= 20_000_000
        async with connected(server) as (reader, writer):
            writer.write(GET + b"\r\n")
            assert (await answered(reader))[0] == 200
        for bare in slow:
            bare.close()
        await nothing_left(server)


async def test_one_answer_over_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is larger than all may be together is sent whole if there is no other."""
    monkeypatch.setattr(lifetime, "ANSWER_BYTES", 1_000_000)
    async with serving({"large": large}) as server:
        request = await large_run(server, 8)
        async with connected(server) as (reader, writer):
            writer.write(request)
            status, _, body = await answered(reader)
            assert status == 200
            assert len(body) > 8_000_000
