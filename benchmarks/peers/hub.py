"""What all peers share: events as Twinwire's, made from a load; one topic's go to a queue for each follower.

Needs nothing but the standard library. A queue per follower is how these libraries are used; none has a log.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from benchmarks.schedule import Load, tokens

Event = dict[str, Any]
_topics: dict[str, list[asyncio.Queue[Event | None]]] = {}
_tasks: set[asyncio.Task[None]] = set()


def event(kind: str, data: dict[str, Any], run: str, number: int) -> Event:
    """An event of the shape of Twinwire's."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": kind, "data": data, "timestamp": now, "metadata": {}, "id": f"evt-{run}-{number}"}


async def private(message: str) -> AsyncGenerator[Event, None]:
    """The events of a run of one's own."""
    run, number = secrets.token_hex(13).translate(str.maketrans("0189", "ghij")), 0
    async with aclosing(tokens(Load.of(message))) as texts:
        async for text in texts:
            number += 1
            yield event("LLM_CHUNK", {"content": text, "delta": text}, run, number)
    yield event("AGENT_FINISH", {"result": "", "status": "completed"}, run, number + 1)


async def _publish(topic: str, message: str) -> None:
    async for one in private(message):
        for queue in _topics[topic]:
            queue.put_nowait(one)
    for queue in _topics.pop(topic):
        queue.put_nowait(None)


async def events(message: str, topic: str = "") -> AsyncGenerator[Event, None]:
    """The events of a run: one's own, or the topic's, which begins with its first follower."""
    if not topic:
        async with aclosing(private(message)) as own:
            async for one in own:
                yield one
        return
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    if topic not in _topics:
        _topics[topic] = []
        task = asyncio.create_task(_publish(topic, message))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
    _topics[topic].append(queue)
    while (shared := await queue.get()) is not None:
        yield shared


async def made(kind: Callable[..., Any], message: str, topic: str) -> AsyncGenerator[Any, None]:
    """The events as a library's SSE takes them: `kind` makes one of `event`, `data` and `id`."""
    async with aclosing(events(message, topic)) as source:
        async for one in source:
            yield kind(event=one["type"], data=encoded(one["data"]), id=one["id"])


async def converse(socket: Any) -> None:
    """A WebSocket of Starlette's kind: what comes first asks, and each event is a text message."""
    await socket.accept()
    async with aclosing(events(**await socket.receive_json())) as source:
        async for one in source:
            await socket.send_text(encoded(one))
    await socket.close()


def encoded(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))


def block(one: Event) -> str:
    """An event as an SSE block."""
    return f"event: {one['type']}\ndata: {encoded(one['data'])}\nid: {one['id']}\n\n"


def listen() -> socket.socket:
    """A listening socket on a free port, which is printed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(listener.getsockname()[1], flush=True)
    return listener


def serve(app: Any) -> None:
    """Serve an ASGI app as Twinwire is served: uvicorn on uvloop and httptools, without logs and compression."""
    import uvicorn

    settings = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="websockets-sansio", ws_per_message_deflate=False,
        log_level="warning", access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    uvicorn.Server(settings).run([listen()])
