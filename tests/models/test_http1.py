"""HTTP/1.1 answers as servers send them, well-formed and not, through the models' own transport."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from support.model_server import Exchange, ModelServer, end, text
from support.raw_server import BROKEN, CHUNKED, ENDLESS, WELL, listening, receive, replying, whole
from twinwire.models import Finish, Text
from twinwire.models.openai import connection
from twinwire.models.openai.http import httpx
from twinwire.models.openai.model import OpenAIChatModel, _tls
from twinwire.models.openai.pool import Transport


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=Transport(_tls()), timeout=20.0) as client:
        yield client


@pytest.mark.parametrize(("reply", "body", "kept"), WELL.values(), ids=WELL)
async def test_bodies(client: httpx.AsyncClient, reply: bytes, body: bytes, kept: bool) -> None:
    """Each way to delimit a body is understood, and its connection kept where HTTP allows it."""
    connections: list[int] = []
    replies = [reply] * 2 if kept else [reply]
    async with listening(replying(*replies, connections=connections)) as url:
        for _ in range(2):
            response = await client.post(url, json={})
            assert (response.content, "link" in response.headers) == (body, False)
    assert connections == ([2] if kept else [1, 1])


@pytest.mark.parametrize("reply", [reply for reply, _, kept in WELL.values() if kept])
async def test_bytewise(client: httpx.AsyncClient, reply: bytes) -> None:
    """An answer that comes byte by byte is the same, headers included."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        for byte in reply:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await reader.read()

    async with listening(handler) as slow, listening(replying(reply)) as fast:
        got, expected = await client.post(slow), await client.post(fast)
    assert (got.status_code, got.headers.raw) == (expected.status_code, expected.headers.raw)
    assert got.content == expected.content


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
async def test_broken(client: httpx.AsyncClient, reply: bytes) -> None:
    """What is no answer, or no whole one, is an error, and is asked once."""
    connections: list[int] = []
    async with listening(replying(reply, connections=connections)) as url:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(url, json={})
    assert connections == [1]


@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=ENDLESS)
async def test_endless(client: httpx.AsyncClient, begin: bytes, more: bytes) -> None:
    """What is no body has a limit, at which the connection is closed."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        writer.write(begin)
        while not writer.is_closing():
            writer.write(more * 1000)
            await writer.drain()

    async with listening(handler) as url:
        with pytest.raises(httpx.RemoteProtocolError, match="too long"):
            await client.post(url)


async def test_what_came_before_the_break(client: httpx.AsyncClient) -> None:
    """The bytes before a reset are given, then it is an error."""
    go = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        writer.write(CHUNKED + b"2\r\nok\r\n")
        await go.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with listening(handler) as url, client.stream("POST", url) as response:
        body = response.aiter_raw()
        assert await anext(body) == b"ok"
        go.set()
        with pytest.raises(httpx.ReadError):
            await anext(body)


async def test_chunks_of_one_read_are_one_batch() -> None:
    """Chunks that come in one write are one batch of the model's."""

    async def burst(exchange: Exchange) -> None:
        exchange.begin()
        chunks = [*text("a", "b", "c"), *end(usage=None)]
        exchange.transport.write(b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks))

    async with ModelServer() as server:
        model = OpenAIChatModel("scripted", base_url=server.url)
        server.script(burst)
        assert [batch async for batch in model.stream([])] == [[Text("a"), Text("b"), Text("c"), Finish("stop")]]
        await model.aclose()


async def test_a_sink_that_fails_as_it_is_cancelled(client: httpx.AsyncClient) -> None:
    """If `for_each` is cancelled in the turn in which its sink fails, it is cancelled; the next call goes on."""
    waits, go, more = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        writer.write(CHUNKED + b"2\r\nok\r\n")
        for event, piece in (go, b"2\r\nno\r\n"), (more, b"4\r\nmore\r\n0\r\n\r\n"):
            await event.wait()
            writer.write(piece)

    def failing(data: bytes) -> None:
        if data == b"ok":
            waits.set()
            return
        task.cancel()
        raise ValueError(data)

    async with listening(handler) as url, client.stream("POST", url) as response:
        for_each = response.extensions["for_each"]
        task = asyncio.create_task(for_each(failing))
        await waits.wait()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        more.set()
        rest: list[bytes] = []
        await for_each(rest.append)
        assert rest == [b"more"]


@pytest.mark.parametrize("begun", [b"", CHUNKED, CHUNKED + b"2\r\nok\r\n"], ids=["head", "body", "mid"])
async def test_read_timeout(client: httpx.AsyncClient, begun: bytes) -> None:
    """Silence before the head or in the body is a timeout, and closes the connection."""
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        writer.write(begun)
        await reader.read()
        gone.set()

    async with listening(handler) as url:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(url, timeout=httpx.Timeout(20, read=0.1))
        await gone.wait()


async def test_timeout_is_of_each_silence(client: httpx.AsyncClient) -> None:
    """A body that takes longer than the timeout comes through as long as it is not silent for so long."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        writer.write(CHUNKED)
        for _ in range(12):
            await asyncio.sleep(0.1)
            writer.write(b"1\r\nx\r\n")
        writer.write(b"0\r\n\r\n")

    async with listening(handler) as url:
        assert (await client.post(url, timeout=1.0)).content == b"x" * 12


async def test_backpressure(client: httpx.AsyncClient) -> None:
    """While nobody reads, no more than the high-water mark and a read or two are taken; nothing is lost."""
    size = 2**25

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        writer.write(whole(bytes(size)))
        await reader.read()

    async with listening(handler) as url, client.stream("POST", url) as response:
        sizes = []
        body = response.aiter_raw()
        while True:
            for _ in range(100):
                await asyncio.sleep(0)  # for what it could take
            sizes.append(len(await anext(body, b"")))
            if not sizes[-1]:
                break
    assert max(sizes) < 4 * connection.HIGH_WATER
    assert sum(sizes) == size


async def test_encoded_body(client: httpx.AsyncClient) -> None:
    """A body that the server compressed is decoded by httpx."""
    async with listening(replying(whole(gzip.compress(b"ok"), b"Content-Encoding: gzip"))) as url:
        assert (await client.post(url)).text == "ok"
