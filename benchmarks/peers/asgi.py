"""No framework on uvicorn: an ASGI app that sends each event itself, as bytes that are ready."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs

from benchmarks.peers.hub import block, encoded, events, serve

HEADERS = [(b"content-type", b"text/event-stream")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`/sse` and `/ws`."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        async with aclosing(events(**query)) as source:
            async for one in source:
                await send({"type": "http.response.body", "body": block(one).encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        async with aclosing(events(**json.loads((await receive())["text"]))) as source:
            async for one in source:
                await send({"type": "websocket.send", "text": encoded(one)})
        await send({"type": "websocket.close"})


if __name__ == "__main__":
    serve(app)
