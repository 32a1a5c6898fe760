"""The Python client's `params`, `metadata` and `parts`, over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from support.following import Transport, both, connected
from support.serving import serving
from twinwire import RunRequest, StreamEvent
from twinwire_client import ApiError, SyncClient

PARAMS: Mapping[str, Any] = MappingProxyType({"temperature": 0.5, "deep": MappingProxyType({"a": [None, "ü"]})})
PLAIN = {"temperature": 0.5, "deep": {"a": [None, "ü"]}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
LABELS = {"ticket": "4711"}


class Told:
    """An agent that tells what it was given."""

    accepts = ("image", "params")

    async def __call__(self, request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        given = {"params": request.params, "metadata": request.metadata, "parts": request.parts}
        yield StreamEvent("AGENT_FINISH", {"result": given})


@both
async def test_what_is_given(transport: Transport) -> None:
    """The agent is given all as the program has it, any mapping as an object; labels are in the run and its list."""
    async with serving({"told": Told()}) as server, connected(server.url, transport=transport) as client:
        async with client.stream("hi", user_id="u", params=PARAMS, metadata=LABELS, parts=(IMAGE,)) as run:
            given = await run.wait()
        parts = [{"type": "text", "text": "hi"}, IMAGE]
        assert given == {"params": PLAIN, "metadata": LABELS, "parts": parts}
        assert (await client.get(run.run_id))["metadata"] == LABELS
        assert [each["metadata"] for each in await client.runs(user_id="u")] == [LABELS]
        async with client.stream("", parts=[IMAGE]) as run:
            assert (await run.wait())["parts"] == [IMAGE]
        async with client.stream("hi") as run:
            assert await run.wait() == {"params": {}, "metadata": {}, "parts": []}


@both
async def test_what_is_not_accepted(transport: Transport) -> None:
    """What the agent does not accept is an ApiError whose field names it."""
    file = {"type": "file", "file": {"file_id": "f"}}
    async with serving({"told": Told()}) as server, connected(server.url, transport=transport) as client:
        with pytest.raises(ApiError) as caught:
            async with client.stream("hi", parts=[file]):
                pass
        assert (caught.value.code, caught.value.field) == ("bad_request", "parts")


@both
async def test_a_large_image(transport: Transport) -> None:
    """An image of half a megabyte comes through, over a socket as well."""
    large = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 500_000}"}}
    async with (
        serving({"told": Told()}) as server,
        connected(server.url, transport=transport) as client,
        client.stream("hi", parts=[large]) as run,
    ):
        assert (await run.wait())["parts"][1] == large


async def test_a_copy() -> None:
    """What a program changes after the call changes nothing in the start."""
    params, parts = {"a": [1]}, [dict(IMAGE)]
    async with serving({"told": Told()}) as server, connected(server.url) as client:
        starting = client.stream("hi", params=params, parts=parts)
        params["a"].append(2)
        parts.append(dict(IMAGE))
        async with starting as run:
            given = await run.wait()
    assert (given["params"], len(given["parts"])) == ({"a": [1]}, 2)


async def test_without_an_event_loop() -> None:
    """A SyncClient takes the same."""

    def ask(url: str) -> Any:
        with SyncClient(url) as client, client.stream("hi", params=PARAMS, metadata=LABELS) as run:
            return run.wait()

    async with serving({"told": Told()}) as server:
        given = await asyncio.to_thread(ask, server.url)
    assert given == {"params": PLAIN, "metadata": LABELS, "parts": []}
