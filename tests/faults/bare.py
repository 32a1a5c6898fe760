"""Followers by the hundred: bare connections of which all bytes are kept, or none are read."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Protocol
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

AT_ONCE = 50
RECEIVE_BYTES = 64 * 1024


class Server(Protocol):
    """Where a server is."""

    port: int
    ws_url: str


class Stream:
    """An SSE request whose answer is read to its end, or not at all."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def whole(self) -> bytes:
        """All that is still to come, also where it ends with a reset."""
        found = b""
        try:
            while data := await self._reader.read(65_536):
                found += data
        except ConnectionError:
            pass
        return found

    async def first(self, text: bytes) -> None:
        """Read up to this text."""
        await self._reader.readuntil(text)

    def close(self) -> None:
        self._writer.transport.abort()


async def _connected(server: Server) -> socket.socket:
    """A connection whose kernel takes little for a client that does not read."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", server.port))
    return connection


async def stream(server: Server, path: str) -> Stream:
    """Ask for this, and read nothing."""
    reader, writer = await asyncio.open_connection(sock=await _connected(server), limit=2**16)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
    return Stream(reader, writer)


async def silent(server: Server) -> Stream:
    """Connect, and ask nothing."""
    return Stream(*await asyncio.open_connection(sock=await _connected(server)))


async def streams(server: Server, path: str, count: int) -> list[Stream]:
    """So many of them, not all at once."""
    found: list[Stream] = []
    while len(found) < count:
        found += await asyncio.gather(*(stream(server, path) for _ in range(min(AT_ONCE, count - len(found)))))
    return found


async def _socket(server: Server, command: str) -> ClientConnection:
    opened = await connect(
        server.ws_url, sock=await _connected(server), compression=None, proxy=None, close_timeout=1, ping_interval=None
    )
    await opened.send(command)
    return opened


async def sockets(server: Server, count: int, **command: object) -> list[ClientConnection]:
    """So many sockets that have each said this."""
    found: list[ClientConnection] = []
    while len(found) < count:
        asked = (_socket(server, json.dumps(command)) for _ in range(min(AT_ONCE, count - len(found))))
        found += await asyncio.gather(*asked)
    return found


async def said(opened: ClientConnection) -> tuple[list[str], int | None]:
    """The types of all messages until a socket is closed, and the code it was closed with."""
    types: list[str] = []
    try:
        while True:
            types.append(json.loads(await opened.recv())["type"])
    except ConnectionClosed as closed:
        return types, closed.rcvd.code if closed.rcvd else None


def chat(message: str, **options: str) -> str:
    """The path that starts a run and follows it."""
    return "/chat/stream?" + "&".join(f"{k}={quote(v)}" for k, v in {"message": message, **options}.items())
