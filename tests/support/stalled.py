"""Clients that do not read, and what a server keeps of them."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest
from litestar import asgi
from litestar.types import Receive, Scope, Send

from support.http_wire import UPGRADE, VERSION
from support.serving import Running, until

HANDSHAKE = b"GET /ws HTTP/1.1\r\n" + UPGRADE + VERSION


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as a warning or worse."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def nothing_left(server: Running) -> None:
    """Wait until no connection, task or stream is left."""
    await until(lambda: not server.service.lifetimes.accepted)
    await until(lambda: not server.server.server_state.connections and not server.server.server_state.tasks)
    assert not server.service.lifetimes._watched
    assert server.service.lifetimes._unsent == 0
    assert server.service.limiter._open.total() == 0


async def stalled(server: Running, *requests: bytes) -> socket.socket:
    """Return a connection that sends these requests and reads nothing."""
    bare = socket.socket()
    bare.setblocking(False)
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(bare, ("127.0.0.1", server.port))
    for request in requests:
        await loop.sock_sendall(bare, request)
    return bare


def silent(*, begins: bool) -> tuple[Any, asyncio.Event]:
    """Return an app at `/silent` that sends no answer, or only begins one, until the event is set."""
    release = asyncio.Event()

    @asgi("/silent", copy_scope=False)
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await release.wait()

    return app, release
