"""Servers for tests of HTTP clients: each connection is played by a handler that reads and writes bytes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
OK = HEAD + b"Content-Length: 2\r\n\r\nok"

WELL: dict[str, tuple[bytes, bytes, bool]] = {
    "content-length": (OK, b"ok", True),
    "empty": (HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "chunked": (CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok", True),
    "extensions and trailers": (CHUNKED + b"2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", b"ok", True),
    "padded chunk sizes": (CHUNKED + b"0001  \r\no\r\n1 \r\nk\r\n000 \r\n\r\n", b"ok", True),
    "Content-Length beside chunks": (
        HEAD + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"ok",
        True,
    ),
    "1xx before": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, b"ok", True),
    "1.0 with keep-alive": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "close": (HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "until EOF": (HEAD + b"\r\nok", b"ok", False),
    "surplus answer": (OK + OK, b"ok", False),
    "surplus bytes": (OK + b"\0\0\0", b"ok", False),
}
"""Well-formed responses: the bytes, their body, and whether the connection can be used again."""

BROKEN: dict[str, bytes] = {
    "no answer": b"",
    "half a head": HEAD,
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "an upgrade": b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "a short body": HEAD + b"Content-Length: 3\r\n\r\nok",
    "a cut chunk": CHUNKED + b"3\r\nok",
    "no last chunk": CHUNKED + b"2\r\nok\r\n",
    "a bad chunk": CHUNKED + b"2\r\nok\r\nzz\r\n",
}
"""Bytes that, followed by the end of file, are no whole response."""

ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "a header": (HEAD + b"X: ", b"x"),
    "headers": (HEAD, b"X: x\r\n"),
    "1xx": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a trailer": (CHUNKED + b"2\r\nok\r\n0\r\nX: ", b"x"),
    "an extension": (CHUNKED + b"2\r\nok\r\n2;", b"x"),
}
"""The beginning of a response, and what may not follow it without end."""


def whole(body: bytes, *fields: bytes) -> bytes:
    """Make an answer of this body and these further header lines."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"Content-Length: %d" % len(body), b"", body])


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve each connection with the handler, then close it; give the server's URL."""
    handling: list[asyncio.Task[Any]] = []  # nobody else holds a task that waits for what never comes

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.append(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has closed, or the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        server.close()
        for task in handling:
            task.cancel()


async def receive(reader: asyncio.StreamReader) -> bytes:
    """Read one request whose body, if any, is of known length."""
    head = await reader.readuntil(b"\r\n\r\n")
    _, _, length = head.lower().partition(b"content-length: ")
    return head + await reader.readexactly(int(length.split(b"\r\n")[0] or 0))


def replying(*replies: bytes, connections: list[int] | None = None) -> Handler:
    """Answer the requests of one connection with these bytes in turn, then close it; count requests a connection."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts = [] if connections is None else connections
        mine = len(counts)
        counts.append(0)
        for reply in replies:
            await receive(reader)
            counts[mine] += 1
            writer.write(reply)

    return handler
