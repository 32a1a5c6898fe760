"""How a test says something to a run, over either transport and from a connection of its own."""

from __future__ import annotations

import json
from typing import Any

import httpx
from websockets.asyncio.client import connect

from support.followers import Address


async def answer(kind: str, server: Address, run_id: str, input_id: str, value: Any, **more: Any) -> dict[str, Any]:
    """Answer a question. Return the reply."""
    body = {"answer": value, **more}
    if kind == "sse":
        return await _post(f"{server.url}/runs/{run_id}/inputs/{input_id}", body)
    return await _command(server, {"type": "answer", "run_id": run_id, "input_id": input_id, **body})


async def send(kind: str, server: Address, run_id: str, content: str, **more: Any) -> dict[str, Any]:
    """Send the run a message. Return the reply."""
    body = {"content": content, **more}
    if kind == "sse":
        return await _post(f"{server.url}/runs/{run_id}/messages", body)
    return await _command(server, {"type": "send", "run_id": run_id, **body})


async def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
        reply: dict[str, Any] = (await client.post(url, json=body)).json()
        return reply


async def _command(server: Address, command: dict[str, Any]) -> dict[str, Any]:
    async with connect(server.ws_url, compression=None, proxy=None) as socket:
        await socket.send(json.dumps(command))
        reply: dict[str, Any] = json.loads(await socket.recv())
        return reply
