"""Litestar's own ServerSentEvent, and a plain WebSocket handler of it."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, WebSocket, get, websocket
from litestar.response import ServerSentEvent, ServerSentEventMessage

from benchmarks.peers.hub import converse, made, serve


@get("/sse")
async def sse(message: str, topic: str = "") -> ServerSentEvent:
    """`/sse`."""
    return ServerSentEvent(made(ServerSentEventMessage, message, topic))


@websocket("/ws")
async def ws(socket: WebSocket[Any, Any, Any]) -> None:
    """`/ws`."""
    await converse(socket)


if __name__ == "__main__":
    serve(Litestar([sse, ws]))
