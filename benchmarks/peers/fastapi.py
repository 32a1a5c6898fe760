"""FastAPI: its own SSE (a path operation that yields `ServerSentEvent`), and its WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import aclosing

from fastapi import FastAPI, WebSocket
from fastapi.sse import EventSourceResponse, ServerSentEvent

from benchmarks.peers.hub import converse, encoded, events, serve


async def sse(message: str, topic: str = "") -> AsyncIterable[ServerSentEvent]:
    """`/sse`."""
    async with aclosing(events(message, topic)) as source:
        async for one in source:
            yield ServerSentEvent(raw_data=encoded(one["data"]), event=one["type"], id=one["id"])


async def ws(socket: WebSocket) -> None:
    """`/ws`."""
    await converse(socket)


if __name__ == "__main__":
    app = FastAPI()
    app.get("/sse", response_class=EventSourceResponse)(sse)
    app.websocket("/ws")(ws)
    serve(app)
