"""Both clients say things to a run in the same way, whatever the server does with them: `vectors/talk.json`."""

from __future__ import annotations

from typing import Any

import pytest

from support.following import NOWHERE, Transport, connected
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
    said = expected.pop("said", len(server.said))
    usual = {"field": None} if "error" in expected else {"message_id": "mine", "by": None, "at": None}
    assert outcome == {**usual, **expected}
    verb, *words = vector["say"]
    input_id, heard = words if verb == "answer" else (None, *words)
    assert server.said == [(input_id, heard, "mine")] * said


@pytest.mark.parametrize(("vector", "transport"), CASES)
async def test_python(vector: Vector, transport: Transport) -> None:
    """The Python client does what the vector says."""
    async with playing({**vector, **FOLLOWED}) as server:
        outcome = await play(server.url, transport, vector)
    check(vector, server, outcome)
