"""Both clients say things to a run in the same way, whatever the server does with them: `vectors/talk.json`."""

from __future__ import annotations

from typing import Any

import pytest

from support.following import NOWHERE, Transport, connected
from support.scripted_server import ScriptedServer, playing
from support.vector_cases import Played, cases, played_by_node
from support.vector_files import Vector
from twinwire_client import ApiError, Backoff, ConnectionLost

CASES = cases("talk", connections=[{"events": [1], "then": "wait"}])


async def play(url: str, transport: Transport, vector: Vector) -> dict[str, Any]:
    """The outcome as the Python client tells it."""
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
    async with playing(vector) as server:
        outcome = await play(server.url, transport, vector)
    check(vector, server, outcome)


@pytest.fixture(scope="module")
def played() -> Played:
    """All vectors at once, by one Node."""
    return played_by_node(CASES)


@pytest.mark.parametrize(("vector", "transport"), CASES)
def test_javascript(vector: Vector, transport: Transport, played: Played) -> None:
    """The JS client does what the vector says."""
    check(vector, *played[f"{vector['name']}-{transport}"])
