"""Both clients, Python's and JavaScript's, do the same with whatever a server does: `vectors/client.json`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.following import NOWHERE, Transport, connected, numbers
from support.scripted_server import ScriptedServer, playing
from support.vector_cases import Played, cases, played_by_node
from support.vector_files import Vector
from twinwire_client import ApiError, Backoff, ConnectionLost, ProtocolError, RunFailed

CASES = cases("client")


async def play(url: str, transport: Transport, vector: Vector) -> dict[str, Any]:
    """What the Python client makes of it."""
    heartbeat = vector.get("heartbeat", 15.0)
    events: list[Any] = []
    began = asyncio.get_running_loop().time()
    options = {"heartbeat": heartbeat, "timeout": 4 * heartbeat, "max_attempts": vector.get("attempts", 10)}
    async with connected(url, **options, backoff=Backoff(base=0.01)) as client:
        how: dict[str, Any] = {"transport": transport, "types": vector.get("types")}
        run = client.stream("hello", **how) if "starts" in vector else client.attach(NOWHERE, **how)
        try:
            async with run:
                async for event in run:
                    events.append(event)  # noqa: PERF401 - kept where it raises
                await run.wait()
            end = "completed" if run.terminal is None else run.terminal.data["status"]
        except RunFailed:
            end = "error"
        except ApiError as error:
            end = error.code
        except ConnectionLost:
            end = "connection_lost"
        except ProtocolError:
            end = "protocol_error"
    return {"events": numbers(events), "end": end, "lasts": asyncio.get_running_loop().time() - began}


def check(vector: Vector, server: ScriptedServer, outcome: dict[str, Any]) -> None:
    """The outcome and what the server was asked are as the vector says."""
    expected = vector["expected"]
    said = {"asked": server.asked, "events": outcome["events"], "end": outcome["end"]}
    assert said == {name: expected[name] for name in said}
    assert outcome["lasts"] >= expected.get("lasts", 0)
    assert len(server.keys) == expected.get("starts", 0)
    assert len(set(server.keys)) <= 1


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
