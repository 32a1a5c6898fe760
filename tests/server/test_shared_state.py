"""What sockets follow and remember, which all of them share."""

from __future__ import annotations

import gc
import json
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from support.serving import Puppets, serving, until
from twinwire.formats.native import NativeView
from twinwire.transports.audience import Audience
from twinwire.transports.follower import Follower
from twinwire.transports.pump import Pump
from twinwire.web import session


async def ask(socket: ClientConnection, **command: Any) -> dict[str, Any]:
    """Return the reply to a command."""
    await socket.send(json.dumps({"ref": "mine", **command}))
    while (reply := json.loads(await socket.recv())).get("ref") != "mine":
        pass
    return dict(reply)


async def test_followers_share_a_bound(monkeypatch: pytest.MonkeyPatch, puppets: Puppets) -> None:
    """Over the bound a socket with more than its share is `busy`; one with less follows, and all is given back."""
    monkeypatch.setattr(session, "STATE_BYTES", 32 * 1024)
    types = [f"T{number}" for number in range(32)]
    async with serving({"mine": puppets}) as server:
        async with (
            connect(server.ws_url, compression=None, proxy=None) as many,
            connect(server.ws_url, compression=None, proxy=None) as few,
        ):
            runs = [
                (await ask(few, type="start", request_id=f"r{number}", message="hi"))["run_id"] for number in range(8)
            ]
            for run_id in runs:
                await ask(few, type="detach", run_id=run_id)
            replies = [await ask(many, type="attach", run_id=run_id, types=types) for run_id in runs]
            assert [reply["type"] for reply in replies] == ["attached"] * 6 + ["error"] * 2
            assert replies[-1]["code"] == "busy"
            assert replies[-1]["message"] == (
                "The server is keeping too many followed runs and filters of sockets. Try again later."
            )
            assert (await ask(many, type="attach", run_id=runs[0]))["type"] == "attached"  # follows it already
            assert (await ask(few, type="attach", run_id=runs[0], types=types))["type"] == "attached"
        await until(lambda: not server.service.limiter.state)


async def test_request_ids_are_forgotten_if_memory_is_scarce(monkeypatch: pytest.MonkeyPatch, puppets: Puppets) -> None:
    """A socket remembers its newest 16 request ids while half of what all share is taken; it may start as many runs."""
    monkeypatch.setattr(session, "STATE_BYTES", 0)
    async with (
        serving({"mine": puppets}) as server,
        connect(server.ws_url, compression=None, proxy=None) as socket,
    ):
        for number in range(20):
            started = await ask(socket, type="start", request_id=f"r{number}", message="hi")
            assert started["type"] == "started"
            await ask(socket, type="detach", run_id=started["run_id"])
        statuses = [(await ask(socket, type="cancel", request_id=f"r{number}"))["status"] for number in range(20)]
        assert statuses == ["not_found"] * 4 + ["accepted"] * 16


def kept() -> Counter[str]:
    """Count the objects that connections have for what they follow."""
    gc.collect()
    kinds = (Audience, Follower, NativeView, Pump)
    return Counter(type(found).__name__ for found in gc.get_objects() if type(found) in kinds)


@pytest.mark.full
async def test_nothing_is_kept_of_sockets_that_left(puppets: Puppets) -> None:
    """Of sockets that followed runs with filters of their own no pump, follower, view or audience is left."""
    async with serving({"mine": puppets}) as server, connect(server.ws_url, compression=None, proxy=None) as first:
        start = {"type": "start", "message": "hi", "on_disconnect": "continue"}
        runs = [(await ask(first, request_id=f"r{number}", **start))["run_id"] for number in range(8)]
        before = kept()
        async with AsyncExitStack() as stack:
            for number in range(10):
                socket = await stack.enter_async_context(connect(server.ws_url, compression=None, proxy=None))
                for run_id in runs:
                    types = [f"T{number}_{runs.index(run_id)}"]
                    assert (await ask(socket, type="attach", run_id=run_id, types=types))["type"] == "attached"
            there = kept() - before
            assert (there["Pump"], there["Follower"], there["NativeView"]) == (10, 80, 80)
        await until(lambda: kept() == before)
