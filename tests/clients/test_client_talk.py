"""Both clients say things to a run in the same way, whatever the server does with them: `vectors/talk.json`."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from support.following import NOWHERE, Transport, connected
from support.node import node
from support.scripted_server import ScriptedServer, playing
from support.vector_files import Vector, vectors
from twinwire_client import ApiError, Backoff, ConnectionLost

TRANSPORTS: tuple[Transport, ...] = ("sse", "ws")
CASES = [
    pytest.param(vector, transport, id=f"{vector['name']}-{transport}")
    for vector in vectors("talk")
    for transport in TRANSPORTS
    if vector.get("transport", transport) == transport
]
FOLLOWED = {"connections": [{"events": [1], "then": "wait"}]}


async def play(url: str, transport: Transport, vector: Vector) -> dict[str, Any]:
    """What the Python client tells of it."""
    options = {"max_attempts": vector.get("attempts", 10), "backoff": Backoff(base=0.01)}
    async with connected(url, **options) as client, client.attach(NOWHERE, transport=transport) as run:
        await anext(run)
        verb, *words = vector["say"]
        try:
            said = await getattr(run, verb)(*words, message_id="mine")
        except ApiError as error:
            return {"error": error.code, "field": error.field}
        except ConnectionLost:
            return {"error": "connection_lost", "field": None}
    return {"status": said.status, "message_id": said.message_id, "by": said.by, "at": said.at}


def check(vector: Vector, server: ScriptedServer, outcome: dict[str, Any]) -> None:
    """The outcome and what the server heard are as the vector says."""
    expected = dict(vector["expected"])
    said = expected.pop("said", 1)
    usual = {"field": None} if "error" in expected else {"message_id": "mine", "by": None, "at": None}
    assert outcome == {**usual, **expected}
    verb, *words = vector["say"]
    input_id, heard = words if verb == "answer" else (None, *words)
    assert len(server.said) >= said  # what is answered late is said on another connection, too
    assert all(each == (input_id, heard, "mine") for each in server.said)


@pytest.mark.parametrize(("vector", "transport"), CASES)
async def test_python(vector: Vector, transport: Transport) -> None:
    """The Python client does what the vector says."""
    async with playing({**vector, **FOLLOWED}) as server:
        outcome = await play(server.url, transport, vector)
    check(vector, server, outcome)


@pytest.fixture(scope="module")
def played() -> dict[str, tuple[ScriptedServer, dict[str, Any]]]:
    """All vectors at once, by one Node: the server and the outcome of each."""
    return asyncio.run(_play_all())


async def _play_all() -> dict[str, tuple[ScriptedServer, dict[str, Any]]]:
    async with AsyncExitStack() as stack:
        servers: dict[str, ScriptedServer] = {}
        cases = []
        for case in CASES:
            vector, transport = case.values
            server = await stack.enter_async_context(playing({**vector, **FOLLOWED}))  # type: ignore[dict-item]
            servers[str(case.id)] = server
            cases.append({"url": server.url, "transport": transport, "run_id": NOWHERE, "vector": vector})
        outcomes = json.loads(await node("test/play.js", stdin=json.dumps(cases)))
    return {name: (server, outcome) for (name, server), outcome in zip(servers.items(), outcomes, strict=True)}


@pytest.mark.parametrize(("vector", "transport"), CASES)
def test_javascript(
    vector: Vector, transport: Transport, played: dict[str, tuple[ScriptedServer, dict[str, Any]]]
) -> None:
    """The JS client does what the vector says."""
    check(vector, *played[f"{vector['name']}-{transport}"])
