"""Requests as bytes, bare connections, and answers read from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from support.serving import Running, until

HOST = b"Host: localhost\r\n"

GET = b"GET /healthz HTTP/1.1\r\n" + HOST

POST = b"POST /runs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

UPGRADE = HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

VERSION = b"Sec-WebSocket-Version: 13\r\n"


@asynccontextmanager
async def connected(server: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection, which the test has 20 seconds for: a busy machine takes its time."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def answered(reader: asyncio.StreamReader, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
    """An answer, whose body has a length or is empty, as that to a HEAD: status, fields, body."""
    line, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(0 if head else int(fields.get("content-length", 0)))
    return int(line.split(" ")[1]), fields, body


async def unaffected(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's request is served, nothing was started, nothing is logged with a traceback."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
        assert (await client.get("/healthz")).status_code == 200
    await until(lambda: not server.server.server_state.connections)
    assert server.runs.started == 0
    assert [record for record in caplog.records if record.exc_info] == []


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the connection is closed, or reset since more was sent than anybody reads."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
