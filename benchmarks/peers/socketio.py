"""python-socketio on uvicorn, over its WebSocket alone; a room of its own for each topic."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import socketio

from benchmarks.peers.hub import events, serve

server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], http_compression=False)
running: dict[str, asyncio.Task[None]] = {}  # by topic, or by the connection that asked


async def publish(asked: dict[str, str], room: str) -> None:
    """The run of a room."""
    async with aclosing(events(asked["message"])) as source:
        async for one in source:
            await server.emit("event", one, room=room)
    running.pop(room, None)


async def start(sid: str, asked: dict[str, str]) -> None:
    """What a connection sends first."""
    room = asked["topic"] or sid
    await server.enter_room(sid, room)
    if room not in running:
        running[room] = asyncio.create_task(publish(asked, room))


async def disconnect(sid: str, *_: Any) -> None:
    """A run of one's own ends with the connection."""
    if sid in running:
        running.pop(sid).cancel()


if __name__ == "__main__":
    server.on("start", start)
    server.on("disconnect", disconnect)
    serve(socketio.ASGIApp(server))
