"""Vectors that both clients play, each over each transport: the JavaScript client's all at once, in one Node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from support.following import NOWHERE, Transport
from support.node import node
from support.scripted_server import ScriptedServer, playing
from support.vector_files import vectors

TRANSPORTS: tuple[Transport, ...] = ("sse", "ws")

Played = dict[str, tuple[ScriptedServer, dict[str, Any]]]
"""By a case's id: the server that played its vector, and the outcome as the client told it."""


def cases(name: str, **more: Any) -> list[Any]:
    """Return each vector of a file, with what is given `more`, over each transport that it is for."""
    return [
        pytest.param({**vector, **more}, transport, id=f"{vector['name']}-{transport}")
        for vector in vectors(name)
        for transport in TRANSPORTS
        if vector.get("transport", transport) == transport
    ]


def played_by_node(chosen: Sequence[Any]) -> Played:
    """Have the JavaScript client play these cases."""
    return asyncio.run(_play(chosen))


async def _play(chosen: Sequence[Any]) -> Played:
    async with AsyncExitStack() as stack:
        servers: dict[str, ScriptedServer] = {}
        told = []
        for case in chosen:
            vector, transport = case.values
            server = servers[str(case.id)] = await stack.enter_async_context(playing(vector))
            told.append({"url": server.url, "transport": transport, "run_id": NOWHERE, "vector": vector})
        outcomes = json.loads(await node("test/play.js", stdin=json.dumps(told)))
    return {name: (server, outcome) for (name, server), outcome in zip(servers.items(), outcomes, strict=True)}
