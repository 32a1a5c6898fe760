"""Connections that wait: what each holds, and how the server finds out whether anybody is still there."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import tracemalloc
from collections.abc import AsyncGenerator
from types import CoroutineType

import pytest
from websockets.frames import Opcode

from support.followers import KINDS, start
from support.http_wire import UPGRADE, VERSION
from support.serving import Puppets, Running, serving, until
from support.websocket_wire import PONG, frame, heard, masked, opened
from twinwire.agents import RunRequest
from twinwire.protocol.events import StreamEvent
from twinwire.serving.websocket import BoundedWebSocket
from twinwire.transports import heartbeats

COUNT = 100
BYTES = {"sse": 13_000, "ws": 16_000}  # a third over what it is
RUN_BYTES = {"sse": 18_700, "ws": 21_200}  # with its run: an eighth over what it is
TEXT = b'{"type":"ping"}'


async def follow(kind: str, server: Running, run_id: str | None = None) -> socket.socket:
    """A connection that follows a run, or starts one, and of which this process keeps next to nothing else."""
    loop = asyncio.get_running_loop()
    bare = socket.socket()
    bare.setblocking(False)
    await loop.sock_connect(bare, ("127.0.0.1", server.port))
    if kind == "ws":
        await loop.sock_sendall(bare, b"GET /ws HTTP/1.1\r\n" + UPGRADE + VERSION + b"\r\n")
        await loop.sock_recv(bare, 4096)
        begin = {"type": "start", "request_id": "r", "message": "hi"}
        command = begin if run_id is None else {"type": "attach", "run_id": run_id}
        await loop.sock_sendall(bare, masked(Opcode.TEXT, json.dumps(command).encode()))
    else:
        path = "/chat/stream?message=hi" if run_id is None else f"/runs/{run_id}/events"
        await loop.sock_sendall(bare, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await loop.sock_recv(bare, 4096)
    return bare


def frames() -> int:
    """How many coroutines of the framework go on."""
    # By `type`: to ask a weak proxy for its class, as `isinstance` does, fails where what it stood for is gone.
    coroutines = [found.cr_code for found in gc.get_objects() if type(found) is CoroutineType]
    return len([code for code in coroutines if "litestar" in code.co_filename])


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_connection_holds(kind: str, puppets: Puppets) -> None:
    """A follower that waits weighs some kilobytes, and nothing of the framework's goes on under it."""
    async with serving({"mine": puppets}, user_connections=1000) as server:
        first = await start(kind, server, on_disconnect="continue")
        (await puppets.next()).say("a")
        await first.next()
        warm = await follow(kind, server, first.run_id)
        before = frames()
        tracemalloc.start()
        held = [await follow(kind, server, first.run_id) for _ in range(COUNT)]
        await until(lambda: len(server.service.heartbeats.pumps) == COUNT + 2)
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size / COUNT < BYTES[kind]
        assert frames() == before
        for bare in (*held, warm):
            bare.close()
        await first.close()
        await until(lambda: not server.service.heartbeats.pumps)
        assert server.service.limiter._open.total() == 0


async def silent(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """Say one word and wait."""
    yield StreamEvent("LLM_CHUNK", {"content": "a", "delta": "a"})
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_silent_run_holds(kind: str) -> None:
    """A run that waits for its model, with the connection that follows it, weighs some kilobytes."""
    async with serving({"silent": silent}, user_connections=1000) as server:
        warm = [await follow(kind, server) for _ in range(3)]
        await until(lambda: len(server.runs) == len(warm))
        gc.collect()
        tracemalloc.start()
        held = [await follow(kind, server) for _ in range(COUNT)]
        await until(lambda: len(server.runs) == len(server.service.heartbeats.pumps) == COUNT + len(warm))
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size / COUNT < RUN_BYTES[kind]
        for bare in (*held, *warm):
            bare.close()
        await until(lambda: not server.service.heartbeats.pumps)


async def test_a_socket_that_does_not_answer() -> None:
    """A client that answers no ping for the send timeout, which is several intervals, is closed with 1011."""
    async with serving(heartbeat=0.1, send_timeout=0.5) as server, opened(server) as (reader, _):
        for _ in range(3):
            assert await heard(reader) == (Opcode.PING, b"")
        while (told := await heard(reader))[0] == Opcode.PING:
            pass
        opcode, payload = told
        assert (opcode, int.from_bytes(payload[:2], "big")) == (Opcode.CLOSE, 1011)
        assert await reader.read() == b""
        await until(lambda: not server.service.heartbeats.pumps)


@pytest.mark.parametrize(
    "answer",
    [PONG, masked(Opcode.PONG, b"anybody?"), masked(Opcode.TEXT, TEXT) + PONG, PONG + PONG],
    ids=["alone", "with a payload", "behind a message", "twice"],
)
async def test_a_socket_that_answers(answer: bytes) -> None:
    """A client that answers lives and is asked again, also while it is sent messages; once it does not it goes."""
    async with serving(heartbeat=0.1, send_timeout=0.4) as server, opened(server) as (reader, writer):
        for _ in range(4):
            opcode, payload = await heard(reader)
            while opcode == Opcode.TEXT:
                assert payload == b'{"type":"pong"}'
                opcode, payload = await heard(reader)
            assert (opcode, payload) == (Opcode.PING, b"")
            writer.write(answer)
        while opcode != Opcode.CLOSE:
            opcode, _ = await heard(reader)


async def test_a_message_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that answers pings, and begins a message that it does not end in time, is closed with 4008."""
    monkeypatch.setattr("twinwire.serving.websocket.MESSAGE_SECONDS", 0.2)
    async with serving(heartbeat=0.1) as server, opened(server) as (reader, writer):
        for _ in range(5):  # whole messages, in fragments, take no time from each other
            writer.write(frame(Opcode.TEXT, TEXT[:3]))
            assert await heard(reader) == (Opcode.PING, b"")
            writer.write(PONG + frame(0x80 | Opcode.CONT, TEXT[3:]))
            assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')
        writer.write(frame(Opcode.TEXT, TEXT[:3]))
        while (told := await heard(reader))[0] == Opcode.PING:
            writer.write(PONG + frame(Opcode.CONT))
        assert (told[0], int.from_bytes(told[1][:2], "big")) == (Opcode.CLOSE, 4008)
        await until(lambda: not server.service.heartbeats.pumps)


async def test_what_looks_like_an_answer_within_a_message(server: Running) -> None:
    """Bytes that would be a pong are none where they are a piece of a message that comes alone."""
    async with opened(server) as (reader, writer):
        [protocol] = server.server.server_state.connections
        assert isinstance(protocol, BoundedWebSocket)
        mask = bytes([PONG[0] ^ TEXT[0], PONG[1] ^ TEXT[1], 0, 0])
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(TEXT))
        assert payload.startswith(PONG[:2])
        writer.write(bytes([0x80 | Opcode.TEXT, 0x80 | len(TEXT)]) + mask)
        await until(lambda: not protocol._between_frames())
        writer.write(payload[: len(PONG)])
        await until(lambda: len(protocol.conn.reader.buffer) == len(PONG))
        writer.write(payload[len(PONG) :])
        assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')


async def test_a_socket_given_up_while_the_server_stops(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A socket that is given up at the moment when the server closes all has one close frame, and no traceback."""
    async with opened(server) as (reader, _):
        [protocol] = server.server.server_state.connections
        assert isinstance(protocol, BoundedWebSocket)
        protocol.ask()
        protocol.ping_timeout = 0.0
        protocol.ask()
        await server.service.drain()
        assert await heard(reader) == (Opcode.PING, b"")
        opcode, payload = await heard(reader)
        assert (opcode, int.from_bytes(payload[:2], "big")) == (Opcode.CLOSE, 1011)
        assert await reader.read() == b""
        await until(lambda: not server.service.heartbeats.pumps)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_request_behind_a_stream(puppets: Puppets) -> None:
    """A stream whose client sends another request behind it, which waits, is known to be gone when it is."""
    async with serving({"mine": puppets}, heartbeat=0.1) as server:
        first = await start("sse", server, on_disconnect="continue")
        (await puppets.next()).say("a")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        stream = f"GET /runs/{first.run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        writer.write(stream + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"event: LLM_CHUNK")
        writer.transport.abort()
        await until(lambda: len(server.service.heartbeats.pumps) == 1)
        await first.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_heartbeats_of_many(kind: str, puppets: Puppets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more connections are due than are served at once each gets its heartbeat."""
    monkeypatch.setattr(heartbeats, "AT_ONCE", 2)
    async with serving({"mine": puppets}, heartbeat=0.1) as server:
        first = await start(kind, server)
        puppet = await puppets.next()
        puppet.say("a")
        followers = [await follow(kind, server, first.run_id) for _ in range(5)]
        beat = b"\x89\x00" if kind == "ws" else b": heartbeat\n\n"
        for bare in followers:
            received = b""
            while beat not in received:
                received += (more := await asyncio.get_running_loop().sock_recv(bare, 4096))
                assert more
            bare.close()
        await first.close()
