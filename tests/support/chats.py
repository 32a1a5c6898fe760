"""Clients of the other protocols' routes as plain as can be: HTTP, and the messages of `/ai-sdk/ws`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from support.formats_rules import datas
from support.serving import Running


def http(server: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20)


def said(*texts: str) -> list[dict[str, Any]]:
    """A chat of the AI SDK: the user's and the assistant's messages in turn."""
    roles = ["user", "assistant"] * len(texts)
    return [
        {"role": role, "parts": [{"type": "text", "text": words}]} for role, words in zip(roles, texts, strict=False)
    ]


def frames(answer: httpx.Response) -> list[Any]:
    """The JSON values of an SSE body, without its comment."""
    return datas([answer.content.removeprefix(b": heartbeat\n\n")])


class Transport:
    """A client of /ai-sdk/ws."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def say(self, kind: str, request: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, "requestId": request, "headers": {}, "body": {}, **fields}))

    async def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await asyncio.wait_for(self._socket.recv(), 10))
        return message

    async def until(self, kind: str, request: str) -> list[dict[str, Any]]:
        """The messages up to one of this type for this request."""
        seen = [await self.next()]
        while (seen[-1]["type"], seen[-1]["requestId"]) != (kind, request):
            seen.append(await self.next())
        return seen


def opened(server: Running) -> Any:
    return connect(f"ws://127.0.0.1:{server.port}/ai-sdk/ws", compression=None, proxy=None)
