"""What else a client may do with the connection of a stream: send requests behind it, upgrade it, keep it.

What is no HTTP or no WebSocket is in `test_http_wire` and `test_websocket_wire`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from websockets.frames import Opcode

from support.followers import start
from support.http_wire import GET, HOST, UPGRADE, VERSION, answered, connected, ended
from support.redis_server import own_server
from support.serving import Puppets, Running, serving, until
from support.websocket_wire import PONG, heard, masked, opened
from twinwire.transports import Verdict


def stream(run_id: str) -> bytes:
    return f"GET /runs/{run_id}/events HTTP/1.1\r\n".encode() + HOST + b"\r\n"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("why", [Verdict.RESTART, Verdict.SLOW], ids=["flushed", "not flushed"])
async def test_a_stream_is_cut_off_with_a_request_behind_it(
    why: Verdict, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream that is broken off leaves nothing behind, though its client has sent another request already."""
    async with serving({"mine": puppets}) as server:
        first = await start("sse", server, on_disconnect="continue")
        (await puppets.next()).say("a")
        async with connected(server) as (reader, writer):
            writer.write(stream(first.run_id) + GET + b"\r\n")
            await reader.readuntil(b"event: LLM_CHUNK")
            for pump in tuple(server.service.heartbeats.pumps):
                pump.end(why)
            assert b"HTTP/1.1" not in await ended(reader)
        await until(lambda: not server.server.server_state.tasks)
        assert server.service.limiter._open.total() == 0
        await first.close()
    assert told(caplog) == []


async def test_a_caller_who_leaves_with_a_request_behind(
    server: Running, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """Who hangs up before the answer has cancelled the run, also where they had sent another request already."""
    async with connected(server) as (_, writer):
        writer.write(b"GET /chat?message=x&stream=false HTTP/1.1\r\n" + HOST + b"\r\n" + GET + b"\r\n")
        puppet = await puppets.next()
    await puppet.closed.wait()
    await until(lambda: not server.server.server_state.tasks)
    assert told(caplog) == []


async def test_a_stream_that_is_left_with_a_request_behind(puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """A client that goes away is no fault of the app's, also where it had sent another request already."""
    async with serving({"mine": puppets}, heartbeat=0.1) as server, connected(server) as (reader, writer):
        writer.write(b"GET /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n" + GET + b"\r\n")
        (await puppets.next()).say("a")
        await reader.readuntil(b"event: LLM_CHUNK")
        writer.transport.abort()
    await until(lambda: not server.server.server_state.tasks)
    assert told(caplog) == []


async def test_garbage_behind_a_request_behind_a_stream(
    server: Running, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no request is refused after the answers to what was sent before it, and puts nothing into them."""
    async with connected(server) as (reader, writer):
        writer.write(b"GET /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n")
        (puppet := await puppets.next()).say("a")
        await reader.readuntil(b"event: LLM_CHUNK")
        writer.write(GET + b"\r\n\0garbage")
        puppet.end()
        assert b"HTTP/1.1" not in await reader.readuntil(b"\r\n0\r\n\r\n")
        assert (await answered(reader))[0] == 200
        assert (await answered(reader))[0] == 400
        assert await ended(reader) == b""
    await until(lambda: not server.server.server_state.tasks)
    assert told(caplog) == []


async def test_an_upgrade_behind_a_stream(server: Running, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """A connection becomes a WebSocket once the stream before the handshake has ended."""
    async with connected(server) as (reader, writer):
        writer.write(b"GET /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n")
        (puppet := await puppets.next()).say("a")
        await reader.readuntil(b"event: LLM_CHUNK")
        writer.write(b"GET /ws HTTP/1.1\r\n" + UPGRADE + VERSION + b"\r\n")
        puppet.end()
        assert b"HTTP/1.1" not in await reader.readuntil(b"\r\n0\r\n\r\n")
        assert (await answered(reader))[0] == 101
    await until(lambda: not server.service.heartbeats.pumps and not server.server.server_state.tasks)
    assert told(caplog) == []


@pytest.mark.parametrize("behind", [True, False], ids=["sent before its end", "sent after its end"])
async def test_a_connection_is_kept_after_a_stream(
    behind: bool, server: Running, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """After the end of a stream its connection takes the next requests, another stream among them."""
    async with connected(server) as (reader, writer):
        for _ in range(2):
            writer.write(b"GET /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n" + (GET + b"\r\n") * behind)
            puppet = await puppets.next()
            puppet.say("a")
            await reader.readuntil(b"event: LLM_CHUNK")
            puppet.end()
            await reader.readuntil(b"\r\n0\r\n\r\n")
            if not behind:
                writer.write(GET + b"\r\n")
            assert (await answered(reader))[0] == 200
    await until(lambda: not server.server.server_state.tasks)
    assert told(caplog) == []


@pytest.mark.parametrize("head", [b" HTTP/1.0\r\n", b" HTTP/1.1\r\nConnection: close\r\n"], ids=["1.0", "1.1"])
async def test_a_connection_is_closed_after_a_stream(head: bytes, server: Running, puppets: Puppets) -> None:
    """Where the client wants it so, the connection ends with the body's end; HTTP/1.0 has no chunks."""
    async with connected(server) as (reader, writer):
        writer.write(b"GET /chat/stream?message=x" + head + HOST + b"\r\n")
        puppet = await puppets.next()
        puppet.end()
        body = await ended(reader)
        assert b"connection: close\r\n" in body
        if b"1.0" in head:
            assert b"transfer-encoding" not in body
            assert body.partition(b"\r\n\r\n")[2].startswith(b"retry: ")
            assert body.endswith(b"\n\n")
        else:
            assert body.endswith(b"0\r\n\r\n")


async def test_a_socket_that_answers_behind_what_waits(puppets: Puppets, tmp_path: Path) -> None:
    """A client whose messages wait for a log that hangs, and its pongs behind them, is not taken for dead."""
    command = masked(Opcode.TEXT, b'{"type":"cancel","run_id":"%b"}' % (b"a" * 26))
    with own_server(tmp_path) as redis:
        async with (
            serving({"mine": puppets}, heartbeat=0.1, log=redis.url) as server,
            opened(server) as (reader, writer),
        ):
            with redis.frozen():
                writer.write(command * 2)
                for _ in range(5):
                    assert await heard(reader) == (Opcode.PING, b"")
                    writer.write(PONG)
            while (said := await heard(reader))[0] == Opcode.PING:
                writer.write(PONG)
            assert said[0] == Opcode.TEXT
            assert b"not_found" in said[1]
