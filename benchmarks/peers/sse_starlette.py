"""sse-starlette's EventSourceResponse, and Starlette's own WebSocket."""

from __future__ import annotations

from typing import Any

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from benchmarks.peers.hub import converse, made, serve


async def sse(request: Any) -> Any:
    """`/sse`."""
    asked = request.query_params
    return EventSourceResponse(made(dict, asked["message"], asked.get("topic", "")))


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/sse", sse), WebSocketRoute("/ws", converse)]))
