"""A connection from accept to its end: each has a deadline and is counted, whatever protocol it is at.

The ids of `UPGRADES`, and the tests after them, are the rows of "Before and beside a stream" in docs/ROBUSTNESS.md.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest
from litestar import websocket
from litestar.connection import WebSocket
from websockets.frames import Opcode

from support.credentials import AUTH, TOKENS
from support.followers import KINDS, attach, rest, start
from support.http_wire import CHUNKED, GET, HOST, POST, answered, connected, ended
from support.serving import Puppets, Running, serving, until
from support.stalled import HANDSHAKE, lines, nothing_left, silent, stalled
from support.websocket_wire import frame, heard, masked, opened
from twinwire.serving import bounds
from twinwire.serving.shell import HttpProtocol
from twinwire.serving.websocket import BoundedWebSocket
from twinwire.transports import lifetime


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has 0.2 s."""
    monkeypatch.setattr(bounds, "REQUEST_SECONDS", 0.2)


UPGRADES: list[tuple[str, bytes, int]] = [
    ("with Content-Length", HANDSHAKE + b"Content-Length: 1\r\n\r\n", 400),
    ("with a body", HANDSHAKE + b"Content-Length: 1\r\n\r\nx", 400),
    ("chunked", HANDSHAKE + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    ("with an empty body", HANDSHAKE + b"Content-Length: 0\r\n\r\n", 101),
    ("to HTTP/2", GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n", 200),
    ("CONNECT of a path", b"CONNECT /healthz HTTP/1.1\r\n" + HOST + b"\r\n", 400),
]


@pytest.mark.parametrize("row", UPGRADES, ids=[row[0] for row in UPGRADES])
async def test_upgrades(row: tuple[str, bytes, int], server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """An upgrade that has a body is refused, one to something else is passed over; nothing is left or logged."""
    _, request, status = row
    async with connected(server) as (reader, writer):
        writer.write(request)
        assert (await answered(reader))[0] == status
        if status == 400:
            await ended(reader)
        if status == 200:
            writer.write(GET + b"\r\n")
            assert (await answered(reader))[0] == 200
    await nothing_left(server)
    assert lines(caplog) == []


async def test_what_follows_an_upgrade_that_is_not_taken(server: Running) -> None:
    """A request in the same packet as an upgrade to something else is answered too."""
    async with connected(server) as (reader, writer):
        writer.write(GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + (GET + b"\r\n") * 2)
        for _ in range(3):
            assert (await answered(reader))[0] == 200


EARLIER = b"GET /chat?message=x&stream=false HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "byte by byte"])
async def test_a_handshake_behind_unanswered_requests(
    apart: bool, count: int, server: Running, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits until they are answered, in order; then the socket opens, and has what was sent behind it."""
    sent = EARLIER * count + HANDSHAKE + b"\r\n" + masked(Opcode.TEXT, b'{"type":"ping"}')
    async with connected(server) as (reader, writer):
        for piece in [sent[at : at + 1] for at in range(len(sent))] if apart else [sent]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        for number in range(count):
            puppet = await puppets.next()
            puppet.say(f"answer {number}")
            puppet.end()
            status, _, body = await answered(reader)
            assert (status, json.loads(body)["result"]) == (200, f"answer {number}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')
    await nothing_left(server)
    assert lines(caplog) == []


async def test_a_handshake_behind_a_stream(server: Running, puppets: Puppets) -> None:
    """It waits for the terminal event of the stream."""
    async with connected(server) as (reader, writer):
        writer.write(b"GET /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n" + HANDSHAKE + b"\r\n")
        puppet = await puppets.next()
        puppet.say("all of it")
        await reader.readuntil(b"all of it")
        puppet.end()
        assert b"AGENT_FINISH" in await reader.readuntil(b"\r\n0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        writer.write(masked(Opcode.TEXT, b'{"type":"ping"}'))
        assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')


LATE: list[tuple[str, bytes, int]] = [
    ("a bad handshake", HANDSHAKE.replace(b"dGhl", b"") + b"\r\n", 400),
    ("an unknown coding", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("no HTTP", b"\0garbage", 400),
    ("a large field", GET + b"X: " + b"a" * 2**17, 431),
]


@pytest.mark.parametrize("row", LATE, ids=[row[0] for row in LATE])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_refusal_behind_unanswered_requests(
    row: tuple[str, bytes, int], count: int, server: Running, puppets: Puppets
) -> None:
    """What is refused is refused once the requests before it are answered, and what follows it is not read."""
    async with connected(server) as (reader, writer):
        writer.write(EARLIER * count + row[1] + GET + b"\r\n")
        for _ in range(count):
            puppet = await puppets.next()
            puppet.end()
            assert (await answered(reader))[0] == 200
        assert (await answered(reader))[0] == row[2]
        assert b"HTTP/1.1" not in await ended(reader)
    await nothing_left(server)


MORE = b"Upgrade: h2c\r\nConnection: Upgrade\r\n"
TELLING = b'{"message":"which"}'
BODIES = {
    "with a length": POST + MORE + b"Content-Length: %d\r\n\r\n" % len(TELLING) + TELLING,
    "chunked": POST + MORE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(TELLING), TELLING),
}


@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "byte by byte"])
@pytest.mark.parametrize("kind", BODIES)
async def test_the_body_of_an_upgrade_that_is_not_taken(kind: str, apart: bool, server: Running) -> None:
    """It is the request's, as `curl --http2` sends it, and no request of its own."""
    sent = BODIES[kind] + GET + b"\r\n"
    async with connected(server) as (reader, writer):
        for piece in [sent[at : at + 1] for at in range(len(sent))] if apart else [sent]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        status, _, body = await answered(reader)
        assert (status, json.loads(body)["status"]) == (201, "running")
        assert (await answered(reader))[0] == 200


@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "in two"])
async def test_frames_behind_a_handshake(apart: bool, server: Running) -> None:
    """Messages that a client sends before its handshake is answered are answered after it."""
    async with connected(server) as (reader, writer):
        writer.write(HANDSHAKE + b"\r\n" + masked(Opcode.TEXT, b'{"type":"ping"}') * (not apart))
        if apart:
            writer.write(masked(Opcode.TEXT, b'{"type":"ping"}'))
        await reader.readuntil(b"\r\n\r\n")
        assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')


@websocket("/never")
async def never(socket: WebSocket) -> None:  # type: ignore[type-arg]
    """Accept nobody."""
    await asyncio.Event().wait()


@pytest.mark.usefixtures("hasty")
async def test_a_handshake_that_is_never_accepted(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """The time of a request bounds the handshake too, whatever the app does."""
    server.server.config.app.register(never)  # type: ignore[union-attr, arg-type]
    async with connected(server) as (reader, writer):
        writer.write(HANDSHAKE.replace(b"/ws", b"/never") + b"\r\n")
        assert await ended(reader) == b""
        await until(lambda: not server.service.lifetimes.accepted)
    assert server.service.metrics.refused["unanswered"] == 1
    for task in tuple(server.server.server_state.tasks):
        task.cancel()


@pytest.mark.parametrize("begins", [False, True], ids=["no answer", "half an answer"])
@pytest.mark.parametrize("request_", [GET + b"\r\n", POST + b"Content-Length: 2\r\n\r\n{}"], ids=["GET", "POST"])
async def test_an_app_that_does_not_answer(request_: bytes, begins: bool, server: Running, puppets: Puppets) -> None:
    """Its connection is dropped in the time that an answer has; a silent run's stream goes on."""
    server.service.lifetimes.answer_seconds = 0.3
    app, release = silent(begins=begins)
    server.server.config.app.register(app)  # type: ignore[union-attr]
    follower = await start("sse", server)
    puppet = await puppets.next()
    async with connected(server) as (reader, writer):
        writer.write(request_.replace(b"/healthz", b"/silent").replace(b"/runs", b"/silent"))
        assert b"0\r\n\r\n" not in await ended(reader)
    assert server.service.metrics.refused["unanswered"] == 1
    puppet.say("on")
    puppet.end()
    assert len(await rest(follower)) == 3
    release.set()
    await nothing_left(server)


@pytest.mark.usefixtures("hasty")
async def test_a_first_request_does_not_prolong_the_time(server: Running) -> None:
    """A connection that begins its first request late has what is left of its time, not as much again."""
    async with connected(server) as (reader, writer):
        [one] = server.service.lifetimes._watched
        before = one.deadline
        writer.write(GET)
        await until(lambda: one.phase is lifetime.Phase.REQUEST)
        assert one.deadline == before
        assert (await answered(reader))[0] == 408


async def test_pipelined_requests(server: Running) -> None:
    """Of thousands of requests sent at once a few are parsed ahead; all are answered, in order."""
    async with connected(server) as (reader, writer):
        writer.write((GET + b"\r\n") * 500)
        [connection] = server.server.server_state.connections or [None]
        most = 0
        for _ in range(500):
            assert (await answered(reader))[0] == 200
            [connection] = server.server.server_state.connections
            most = max(most, len(connection.pipeline))  # type: ignore[union-attr]
        assert most <= bounds.AHEAD_REQUESTS


async def test_pipelined_bodies(server: Running) -> None:
    """Requests with bodies, of a length and in chunks, are told apart at whatever byte they are cut."""
    one = POST + b"Content-Length: 2\r\n\r\n{}" + CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n" + GET + b"\r\n"
    async with connected(server) as (reader, writer):
        for size in (len(one) * 5, 7, 1):
            data = one * 5
            for at in range(0, len(data), size):
                writer.write(data[at : at + size])
                await asyncio.sleep(0)
            found = [(await answered(reader))[0] for _ in range(15)]
            assert found == [400, 400, 200] * 5


async def test_messages_sent_in_one_go(server: Running) -> None:
    """Of thousands of messages on a socket those alone are parsed that the app will take soon."""
    async with opened(server) as (reader, writer):
        [protocol] = server.server.server_state.connections
        assert isinstance(protocol, BoundedWebSocket)
        writer.write(masked(Opcode.TEXT, b'{"type":"ping"}') * 900)
        most = 0
        for _ in range(900):
            assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')
            most = max(most, len(protocol.queue._items))  # type: ignore[attr-defined]
        assert most < 200


async def test_many_fragments(server: Running) -> None:
    """A message may come in ten thousand fragments."""
    text = b'{"type":"ping"}' + b" " * 10_000
    async with opened(server) as (reader, writer):
        fragments = [frame(Opcode.CONT if at else Opcode.TEXT, text[at : at + 1]) for at in range(len(text))]
        writer.write(b"".join(fragments) + frame(0x80 | Opcode.CONT))
        assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')


@pytest.mark.parametrize("ending", [b"0\r\nHost: x\r\nAuthorization: Bearer y\r\n\r\n", b"0\r\nX: y\r\n\r\n"])
async def test_trailers(ending: bytes, server: Running, puppets: Puppets) -> None:
    """The trailers of a chunked body are in no head: neither of their request nor of the next one."""
    body = b'{"message":"x"}'
    async with connected(server) as (reader, writer):
        writer.write(CHUNKED + b"%x\r\n%b\r\n" % (len(body), body) + ending)
        assert (await answered(reader))[0] == 201
        [connection] = server.server.server_state.connections
        assert [name for name, _ in connection.headers] == [b"host", b"content-type", b"transfer-encoding"]  # type: ignore[union-attr]
        writer.write(GET + b"\r\n")
        assert (await answered(reader))[0] == 200
        assert connection.headers == [(b"host", b"localhost")]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
async def test_more_connections_than_may_be(kind: str, server: Running, puppets: Puppets) -> None:
    """If there is no room the connection that has idled for longest goes; streams and new requests are served."""
    server.service.lifetimes.most = 4
    follower = await start(kind, server)
    puppet = await puppets.next()
    idle = [await stalled(server, sent) for sent in (b"", GET, HANDSHAKE, GET + b"\r\n", b"", b"", b"")]
    assert server.service.lifetimes.accepted <= 4
    for _ in range(3):
        async with connected(server) as (reader, writer):
            writer.write(GET + b"\r\n")
            assert (await answered(reader))[0] == 200
    puppet.say("on")
    assert b"AGENT_START" in (await follower.next() or b"")
    assert b"on" in (await follower.next() or b"")
    assert server.service.metrics.refused["crowded"] >= 4
    for bare in idle:
        bare.close()
    await follower.close()


async def test_strangers_take_nobody_s_place(puppets: Puppets) -> None:
    """Sockets that have not said whose they are count for no limit of streams, and go first if there is no room."""
    async with serving({"mine": puppets}, max_connections=2, **AUTH) as server:
        server.service.lifetimes.most = 4
        hello = json.dumps({"type": "auth", "token": TOKENS["alice"]}).encode()
        async with opened(server) as (reader, writer):
            writer.write(masked(Opcode.TEXT, hello))
            assert b"authenticated" in (await heard(reader))[1]
            strangers = [await stalled(server, HANDSHAKE + b"\r\n") for _ in range(8)]
            await until(lambda: server.service.metrics.refused["crowded"] >= 5)
            async with opened(server) as (other, saying):
                saying.write(masked(Opcode.TEXT, hello))
                assert b"authenticated" in (await heard(other))[1]
            writer.write(masked(Opcode.TEXT, b'{"type":"ping"}'))
            assert await heard(reader) == (Opcode.TEXT, b'{"type":"pong"}')
            for bare in strangers:
                bare.close()
        await nothing_left(server)


def reset(bare: socket.socket) -> None:
    """Close a connection with RST."""
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    bare.close()


RESET = [
    b"GET /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /chat?message=x&stream=false HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /page/page.js HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /schema HTTP/1.1\r\n" + HOST + b"\r\n",
    POST + b"Content-Length: 15\r\n\r\n{",
    HANDSHAKE + b"\r\n",
    HANDSHAKE + b"\r\n" + masked(Opcode.TEXT, b'{"type":"start","request_id":"r","message":"x"}'),
]


@pytest.mark.parametrize("request_", RESET, ids=range(len(RESET)))
async def test_resets(request_: bytes, server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A client that resets its connection at any moment writes no line into the log."""
    for pause in (0.0, 0.0003, 0.001, 0.002, 0.004, 0.008) * 5:
        bare = await stalled(server, request_)
        await asyncio.sleep(pause)  # the moment at which it goes
        reset(bare)
    await nothing_left(server)
    assert lines(caplog) == []


@pytest.mark.parametrize("path", ["/healthz", "/page/page.js", "/nowhere"])
async def test_http_1_0(path: str, server: Running) -> None:
    """An answer in HTTP/1.0 has no chunks, and ends with the connection."""
    async with connected(server) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.0\r\n".encode() + HOST + b"\r\n")
        status, fields, body = await answered(reader)
        assert status == (404 if path == "/nowhere" else 200)
        assert fields["connection"] == "close"
        assert "transfer-encoding" not in fields
        assert body
        assert await ended(reader) == b""


async def test_a_stream_between_drain_and_shutdown(server: Running, puppets: Puppets) -> None:
    """A stream that is asked for on a kept connection when all others have ended ends at once."""
    follower = await start("sse", server, on_disconnect="continue")
    await puppets.next()
    async with connected(server) as (reader, writer):
        writer.write(GET + b"\r\n")
        await answered(reader)
        await server.service.drain()
        writer.write(f"GET /runs/{follower.run_id}/events HTTP/1.1\r\n".encode() + HOST + b"\r\n")
        await ended(reader)
        async with asyncio.timeout(20):
            await server.service.lifetimes.stop(60)
    await follower.close()


async def test_ipv4_through_ipv6(puppets: Puppets) -> None:
    """A server on `::` sees who comes over IPv4 as such, and knows loopback in that form."""
    async with serving({"mine": puppets}) as server:
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        port = listener.getsockname()[1]
        options = {"config": server.server.config, "server_state": server.server.server_state, "app_state": {}}
        loop = asyncio.get_running_loop()
        server.server.servers.append(await loop.create_server(lambda: HttpProtocol(**options), sock=listener))
        for address in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(GET + b"\r\n")
            assert (await answered(reader))[0] == 200
            [connection] = server.server.server_state.connections
            assert isinstance(connection, HttpProtocol)
            assert connection.client is not None
            assert connection.client[0] == address
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert (await answered(reader))[0] == 200
            writer.write(b"GET /runs HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert (await answered(reader))[0] == 421
            writer.close()
            await until(lambda: not server.server.server_state.connections)


def test_how_many_connections() -> None:
    """Beside streams there is room for others, and files that are not there are not counted on."""
    assert lifetime.accepted_at_most(10_000, 1000, 2**20) == 12_500
    assert lifetime.accepted_at_most(10, 1000, 2**20) == 74
    assert lifetime.accepted_at_most(10_000, 1000, 4096) == 4096 - 1256
    assert lifetime.accepted_at_most(10_000, 1000, 64) == 32
    assert lifetime.streams_at_most(10_000, 12_500) == 10_000
    assert lifetime.streams_at_most(10_000, 32) == 25


async def test_who_follows_is_not_looked_at(server: Running, puppets: Puppets) -> None:
    """A stream costs the table nothing: it is in it again when its events have ended."""
    first = await start("sse", server)
    puppet = await puppets.next()
    other = await attach("ws", server, first.run_id)
    await until(lambda: not server.service.lifetimes._watched)
    assert server.service.lifetimes.accepted == 2
    puppet.end()
    await until(lambda: bool(server.service.lifetimes._watched))
    await first.close()
    await other.close()
    await nothing_left(server)
