"""Bad input below HTTP's meaning: heads, framing, slowness. Exact answers or closed connections; no one else suffers.

The ids of `ROWS`, and the tests after them, are the rows of "Bad input, HTTP" in the table of faults.
"""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from support.followers import start
from support.http_wire import CHUNKED, GET, HOST, POST, UPGRADE, VERSION, answered, connected, ended, unaffected
from support.serving import Puppets, Running, until
from twinwire.serving import bounds

TE_CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b'\r\n\r\nf\r\n{"message":"x"}\r\n0\r\n\r\n'
TE_GZIP = b"Transfer-Encoding: gzip\r\n"
H2C = b"Upgrade: h2c\r\nConnection: Upgrade\r\n"

ROWS: list[tuple[str, bytes, int, str | None]] = [
    # row, request, status, code
    ("CL+TE", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
    ("TE+CL", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "bad_request"),
    ("two CLs", POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", 400, "bad_request"),
    ("two equal CLs", POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, "bad_request"),
    ("negative CL", POST + b"Content-Length: -1\r\n\r\n", 400, "bad_request"),
    ("CL of 30 digits", POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400, "bad_request"),
    ("CL that is no number", POST + b"Content-Length: 1_0\r\n\r\n", 400, "bad_request"),
    ("unknown TE", POST + b"Transfer-Encoding: gzip\r\n\r\n", 400, "bad_request"),
    ("TE identity", POST + b"Transfer-Encoding: identity\r\n\r\n", 400, "bad_request"),
    ("TE chunked, chunked", POST + b"Transfer-Encoding: chunked, chunked" + CHUNKS, 400, "bad_request"),
    ("TE chunked, gzip", POST + b"Transfer-Encoding: chunked, gzip" + CHUNKS, 400, "bad_request"),
    ("TE in HTTP/1.0", POST.replace(b"/1.1", b"/1.0") + TE_CHUNKED + CHUNKS, 400, "bad_request"),
    ("TE gzip, chunked", POST + b"Transfer-Encoding: gzip, chunked" + CHUNKS, 501, "not_implemented"),
    ("TE identity, chunked", POST + b"Transfer-Encoding: identity, chunked" + CHUNKS, 501, "not_implemented"),
    ("TE gzip, TE chunked", POST + TE_GZIP + TE_CHUNKED + CHUNKS, 501, "not_implemented"),
    ("TE gzip, chunked with h2c", POST + H2C + b"Transfer-Encoding: gzip, chunked" + CHUNKS, 501, "not_implemented"),
    ("no Host", b"GET /healthz HTTP/1.1\r\n\r\n", 400, "bad_request"),
    ("two Hosts", GET + b"Host: y\r\n\r\n", 400, "bad_request"),
    ("two Hosts in HTTP/1.0", b"GET /healthz HTTP/1.0\r\n" + HOST * 2 + b"\r\n", 400, "bad_request"),
    ("NUL in a field", GET + b"X: a\0b\r\n\r\n", 400, "bad_request"),
    ("NUL in the path", b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
    ("bare CR in a field", GET + b"X: a\rb\r\n\r\n", 400, "bad_request"),
    ("space before the colon", GET + b"X : y\r\n\r\n", 400, "bad_request"),
    ("folded field", GET + b"X: a\r\n b\r\n\r\n", 400, "bad_request"),
    ("not ASCII in the path", b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
    ("1 MB field", GET + b"X: " + b"a" * 2**20 + b"\r\n\r\n", 431, "head_too_large"),
    ("1 MB field without an end", GET + b"X: " + b"a" * 2**20, 431, "head_too_large"),
    ("1 MB path", b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431, "head_too_large"),
    ("20,000 fields", GET + b"X: y\r\n" * 20_000 + b"\r\n", 431, "head_too_large"),
    ("20,000 fields of a trailer", CHUNKED + b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431, "head_too_large"),
    ("bad chunk size", CHUNKED + b"zz\r\n", 400, "bad_request"),
    ("chunk size of 2^64", CHUNKED + b"10000000000000000\r\n", 400, "bad_request"),
    ("chunk longer than its size", CHUNKED + b"2\r\n{}x\r\n", 400, "bad_request"),
    ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "bad_request"),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
    ("HTTP/3.0", b"GET / HTTP/3.0\r\n" + HOST + b"\r\n", 400, "bad_request"),
    ("unknown method", b"HACK / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
    ("CONNECT", b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
    ("wrong method", b"DELETE /runs HTTP/1.1\r\n" + HOST + b"\r\n", 405, "method_not_allowed"),
    ("HEAD on a stream", b"HEAD /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n", 200, None),
    (
        "WebSocket version 8",
        b"GET /ws HTTP/1.1\r\n" + UPGRADE + b"Sec-WebSocket-Version: 8\r\n\r\n",
        426,
        "upgrade_required",
    ),
    ("WebSocket in HTTP/1.0", b"GET /ws HTTP/1.0\r\n" + UPGRADE + VERSION + b"\r\n", 426, "upgrade_required"),
    ("upgrade elsewhere in HTTP/1.0", b"GET /healthz HTTP/1.0\r\n" + UPGRADE + VERSION + b"\r\n", 200, None),
    ("WebSocket by POST", b"POST /ws HTTP/1.1\r\n" + UPGRADE + VERSION + b"\r\n", 405, "method_not_allowed"),
    ("WebSocket elsewhere", b"GET /runs HTTP/1.1\r\n" + UPGRADE + VERSION + b"\r\n", 403, None),
    (
        "WebSocket with a 10 kB field",
        b"GET /ws HTTP/1.1\r\n" + UPGRADE + VERSION + b"X: " + b"a" * 10_000 + b"\r\n\r\n",
        431,
        "head_too_large",
    ),
    ("WebSocket with 200 fields", b"GET /ws HTTP/1.1\r\n" + UPGRADE + VERSION + b"X: y\r\n" * 200 + b"\r\n", 431, None),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
async def test_bad_requests(
    row: tuple[str, bytes, int, str | None], server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer has the row's status, is JSON of the row's code where it is ours, and the connection is closed."""
    _, request, status, code = row
    async with connected(server) as (reader, writer):
        writer.write(request)
        found, fields, body = await answered(reader, head=request.startswith(b"HEAD"))
        assert found == status
        if code is not None:
            assert fields["content-type"] == "application/json"
            assert json.loads(body)["code"] == code
        if status in {400, 426, 431, 501}:
            assert fields["connection"] == "close"
            await ended(reader)
    await unaffected(server, caplog)
    assert code is None or server.service.metrics.refused[code]


HANDSHAKES: list[tuple[str, bytes, int, str]] = [
    # row, fields, status, field
    ("no key", UPGRADE.partition(b"Sec-")[0] + VERSION, 400, "sec-websocket-key"),
    ("bad key", UPGRADE.partition(b"Sec-")[0] + VERSION + b"Sec-WebSocket-Key: abc\r\n", 400, "sec-websocket-key"),
    ("two keys", UPGRADE + VERSION + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 400, "sec-websocket-key"),
    ("no version", UPGRADE, 426, "sec-websocket-version"),
    ("two versions", UPGRADE + VERSION * 2, 426, "sec-websocket-version"),
    ("two upgrades", UPGRADE + VERSION + b"Upgrade: websocket\r\n", 400, "upgrade"),
    ("bad connection", UPGRADE.replace(b": Upgrade", b': Upgrade, ";') + VERSION, 400, "connection"),
    ("bad subprotocol", UPGRADE + VERSION + b"Sec-WebSocket-Protocol: ;;\r\n", 400, "sec-websocket-protocol"),
]


@pytest.mark.parametrize("row", HANDSHAKES, ids=[row[0] for row in HANDSHAKES])
async def test_bad_handshakes(
    row: tuple[str, bytes, int, str], server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad handshake has an error in JSON that names the field in a whole sentence; 426 has the version."""
    _, sent, status, field = row
    async with connected(server) as (reader, writer):
        writer.write(b"GET /ws HTTP/1.1\r\n" + sent + b"\r\n")
        found, fields, body = await answered(reader)
        error = json.loads(body)
        assert (found, error["field"], error["message"][-1]) == (status, field, ".")
        assert fields["content-type"] == "application/json"
        assert fields.get("sec-websocket-version") == ("13" if status == 426 else None)
        await ended(reader)
    await unaffected(server, caplog)
    assert server.service.metrics.refused[error["code"]] == 1


async def test_a_head_of_the_largest_size(server: Running) -> None:
    """Just below the bounds a head is taken, in any pieces, and the next one on the connection counts anew."""
    fields = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 240) for i in range(250))
    request = GET + fields + b"\r\n"
    assert len(request) > 60_000
    async with connected(server) as (reader, writer):
        for size in (len(request), 1000, 20_000):
            for at in range(0, len(request), size):
                writer.write(request[at : at + size])
                await writer.drain()
                await asyncio.sleep(0)
            assert (await answered(reader))[0] == 200


async def test_requests_in_one_go(server: Running) -> None:
    """Many requests sent at once, larger together than a head may be, are all answered."""
    request = GET + b"X: " + b"y" * 20_000 + b"\r\n\r\n"
    async with connected(server) as (reader, writer):
        writer.write(request * 20)
        for _ in range(20):
            assert (await answered(reader))[0] == 200


@pytest.mark.parametrize("path", [b"/healthz", b"/readyz", b"/", b"/v1/models"])
async def test_http_1_0_needs_no_host(path: bytes, server: Running) -> None:
    """Old probes and programs send no Host; they are answered, on each path."""
    async with connected(server) as (reader, writer):
        writer.write(b"GET " + path + b" HTTP/1.0\r\n\r\n")
        assert (await answered(reader))[0] == 200


async def test_an_absolute_target_without_a_path(server: Running) -> None:
    """A query right after the host belongs to the path `/` (RFC 9110, section 4.2.3)."""
    async with connected(server) as (reader, writer):
        writer.write(b"GET http://localhost?a=b HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await answered(reader))[0] == 200


@pytest.mark.parametrize("path", [b"/v1/models", b"/ws"])
async def test_an_absolute_target_names_the_host(path: bytes, server: Running) -> None:
    """The host of an absolute-form target counts, and the Host field does not (RFC 9112, section 3.2.2)."""
    good, refused = (101, 403) if path == b"/ws" else (200, 421)
    shake = UPGRADE.removeprefix(HOST) + VERSION if path == b"/ws" else b""
    for target, host, status in (
        (b"http://LOCALHOST:80", b"evil.example", good),
        (b"HTTP://localhost", b"localhost", good),
        (b"http://evil.example", b"localhost", refused),
        (b"http://localhost@evil.example", b"localhost", 400),
        (b"http://", b"localhost", 400),
    ):
        async with connected(server) as (reader, writer):
            writer.write(b"GET " + target + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + shake + b"\r\n")
            assert int((await reader.readline()).split()[1]) == status, (target, host)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has 0.2 s."""
    monkeypatch.setattr(bounds, "REQUEST_SECONDS", 0.2)


SLOW: list[tuple[str, bytes, bytes]] = [
    # row, what comes first, what comes again and again
    ("slowloris", GET, b"X: y\r\n"),
    ("slow field", GET + b"X: ", b"y"),
    ("slow body", POST + b"Content-Length: 100000\r\n\r\n", b" "),
    ("slow chunks", CHUNKED, b"1\r\n \r\n"),
    ("slow WebSocket handshake", b"GET /ws HTTP/1.1\r\n" + UPGRADE, b"X: y\r\n"),
]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("row", SLOW, ids=[row[0] for row in SLOW])
async def test_slow_requests(row: tuple[str, bytes, bytes], server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A request that comes in drops gets 408 when its time is over, however lively it is."""
    _, first, again = row
    async with connected(server) as (reader, writer):

        async def drip() -> None:
            writer.write(first)
            while True:
                writer.write(again)
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        status, fields, body = await answered(reader)
        assert (status, fields["connection"]) == (408, "close")
        assert json.loads(body)["code"] == "request_timeout"
        dripping.cancel()
        await ended(reader)
    await unaffected(server, caplog)
    assert server.service.metrics.refused["request_timeout"] == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("noise", [b"", b"\r\n"], ids=["silence", "empty lines"])
async def test_connections_that_ask_nothing(noise: bytes, server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A connection without a request is closed without an answer; empty lines are none."""
    async with connected(server) as (reader, writer):
        if noise:
            writer.write(noise)
        assert await ended(reader) == b""
    await unaffected(server, caplog)


@pytest.mark.usefixtures("hasty")
async def test_empty_lines_after_a_request(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """What is no request does not keep a connection open that has been served."""
    async with connected(server) as (reader, writer):
        writer.write(GET + b"\r\n")
        await answered(reader)
        writer.write(b"\r\n")
        await ended(reader)
    await unaffected(server, caplog)


@pytest.mark.usefixtures("hasty")
async def test_a_body_that_goes_on_after_the_answer(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Who has been answered and sends on and on is closed, without a second answer."""
    async with connected(server) as (reader, writer):
        writer.write(GET + b"Content-Length: 100000\r\n\r\n")
        assert (await answered(reader))[0] == 200
        writer.write(b"x")
        assert b"200" not in await ended(reader)
    await unaffected(server, caplog)


@pytest.mark.usefixtures("hasty")
async def test_streams_have_all_the_time(server: Running, puppets: Puppets) -> None:
    """The time is the request's: a stream and a socket that are open outlive it many times."""
    followers = [await start(kind, server) for kind in ("sse", "ws")]
    played = [await puppets.next() for _ in followers]
    await asyncio.sleep(0.5)  # more than the time of a request, which is what must not matter
    for puppet, follower in zip(played, followers, strict=True):
        puppet.say("late")
        puppet.end()
        bodies = [await follower.next() for _ in range(3)]
        assert b"late" in (bodies[1] or b"")
        await follower.close()


async def test_garbage_on_an_open_stream(server: Running, puppets: Puppets, caplog: pytest.LogCaptureFixture) -> None:
    """What is no request, after one whose answer goes on, is refused when that is complete, and not in its body."""
    async with connected(server) as (reader, writer):
        writer.write(b"GET /chat/stream?message=x HTTP/1.1\r\n" + HOST + b"\r\n")
        puppet = await puppets.next()
        puppet.say("a")
        await reader.readuntil(b"event: LLM_CHUNK")
        for _ in range(3):
            writer.write(b"\0garbage")
            await writer.drain()
        puppet.say("b")
        puppet.end()
        rest, end, refusal = (await ended(reader)).partition(b"\r\n0\r\n\r\n")
        assert rest.index(b"AGENT_FINISH")
        assert (rest.count(b"HTTP/1.1"), end != b"", refusal[:12]) == (0, True, b"HTTP/1.1 400")
    await until(lambda: not server.server.server_state.connections)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_an_answer_to_a_request_cut_short(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A client that goes in the middle of its head or its body is forgotten, and nothing is logged as an error."""
    for request in (GET, POST + b"Content-Length: 100\r\n\r\n{", CHUNKED + b"5\r\n{"):
        async with connected(server) as (_, writer):
            writer.write(request)
            await until(lambda: bool(server.server.server_state.connections))
            writer.write_eof()
    await unaffected(server, caplog)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
