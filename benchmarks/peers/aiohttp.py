"""aiohttp's server: a StreamResponse for SSE, and its WebSocket."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import uvloop
from aiohttp import web

from benchmarks.peers.hub import block, encoded, events, listen


async def sse(request: Any) -> Any:
    """`/sse`."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
    await response.prepare(request)
    async with aclosing(events(request.query["message"], request.query.get("topic", ""))) as source:
        async for one in source:
            await response.write(block(one).encode())
    return response


async def ws(request: Any) -> Any:
    """`/ws`."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async with aclosing(events(**await socket.receive_json())) as source:
        async for one in source:
            await socket.send_str(encoded(one))
    await socket.close()
    return socket


async def main() -> None:
    """Serve until the process is ended."""
    app = web.Application(handler_args={"handler_cancellation": True})
    app.add_routes([web.get("/sse", sse), web.get("/ws", ws)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.SockSite(runner, listen()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
