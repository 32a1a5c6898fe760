"""Litestar's own ServerSentEvent, and a plain WebSocket handler of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from litestar import Litestar, WebSocket, get, websocket
from litestar.response import ServerSentEvent, ServerSentEventMessage

from benchmarks.peers.hub import encoded, events, serve


async def messages(message: str, topic: str) -> AsyncGenerator[ServerSentEventMessage, None]:
    """Events as the library takes them."""
    async with aclosing(events(message, topic)) as source:
        async for one in source:
            yield ServerSentEventMessage(event=one["type"], data=encoded(one["data"]), id=one["id"])


@get("/sse")
async def sse(message: str, topic: str = "") -> ServerSentEvent:
    """`/sse`."""
    return ServerSentEvent(messages(message, topic))


@websocket("/ws")
async def ws(socket: WebSocket[Any, Any, Any]) -> None:
    """`/ws`."""
    await socket.accept()
    async with aclosing(events(**await socket.receive_json())) as source:
        async for one in source:
            await socket.send_text(encoded(one))
    await socket.close()


if __name__ == "__main__":
    serve(Litestar([sse, ws]))
