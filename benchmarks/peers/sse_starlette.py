"""sse-starlette's EventSourceResponse, and Starlette's own WebSocket."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from benchmarks.peers.hub import encoded, events, serve


async def messages(message: str, topic: str) -> AsyncGenerator[dict[str, str], None]:
    """Events as the library takes them."""
    async with aclosing(events(message, topic)) as source:
        async for one in source:
            yield {"event": one["type"], "data": encoded(one["data"]), "id": one["id"]}


async def sse(request: Any) -> Any:
    """`/sse`."""
    return EventSourceResponse(messages(request.query_params["message"], request.query_params.get("topic", "")))


async def ws(socket: Any) -> None:
    """`/ws`."""
    await socket.accept()
    async with aclosing(events(**await socket.receive_json())) as source:
        async for one in source:
            await socket.send_text(encoded(one))
    await socket.close()


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/sse", sse), WebSocketRoute("/ws", ws)]))
