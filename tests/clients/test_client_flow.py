"""The Python client's reader slows a run down on a socket: whatever comes when, every event is read, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import pytest
from hypothesis import given, settings, strategies as st

from support.following import NOWHERE, connected, words
from support.serving import Puppets, Running, until
from twinwire_client.run import Position
from twinwire_client.socket import Session
from twinwire_client.ws import FEW_WAITING, MAX_WAITING, _Connection

TOTAL = 3 * MAX_WAITING


class Played:
    """The session of one run, whose server obeys when the test lets it."""

    def __init__(self) -> None:
        self.commands: deque[dict[str, Any]] = deque()
        self.paused = False
        self.sent = 0
        self.connection = _Connection(cast("Session", self), Position(run_id=NOWHERE), renewable=False)

    def tell(self, command: dict[str, Any]) -> None:
        assert command["run_id"] == NOWHERE
        self.commands.append(command)

    def obey(self) -> None:
        """Obey the next command."""
        if self.commands:
            self.paused = {"pause": True, "resume": False}[self.commands.popleft()["type"]]

    def send(self, count: int) -> None:
        """Send so many events, if there are any and the run is not paused."""
        for _ in range(0 if self.paused else min(count, TOTAL - self.sent)):
            self.sent += 1
            self.connection.put(str(self.sent), last=self.sent == TOTAL)


STEPS = st.lists(st.tuples(st.sampled_from(["send", "read", "obey"]), st.integers(1, 700)), max_size=60)


@settings(deadline=None)
@given(STEPS)
def test_any_order_of_put_pause_read_and_resume(steps: list[tuple[str, int]]) -> None:
    """Nothing is lost, repeated or waited for in vain; a run that is paused has its reader behind, or will go on."""

    async def play() -> None:
        played, read = Played(), 0
        for what, count in [*steps, *[("obey", 1), ("send", 700), ("read", 900)] * 20]:
            if what == "send":
                played.send(count)
            elif what == "obey":
                played.obey()
            for _ in range(min(count, played.sent - read) if what == "read" else 0):
                read += 1
                assert await played.connection.receive() == str(read)
            if played.paused and not played.commands:
                assert played.sent - read > FEW_WAITING
        assert read == TOTAL

    asyncio.run(play())


@pytest.mark.parametrize("policy", ["cancel", "cancel_after:300"])
async def test_leaving_for_good(policy: str, server: Running, puppets: Puppets) -> None:
    """Whoever asked for `cancel` ends the run by leaving its block, paused or not; else it waits for its grace."""
    async with connected(server.url, transport="ws") as client:
        async with client.stream("m", on_disconnect=policy) as run:
            puppet = await puppets.next()
            puppet.say(*(str(number) for number in range(2 * MAX_WAITING)))
            (pump,) = server.service.heartbeats.pumps
            await until(pump._followers[run.run_id].paused)
        if policy == "cancel":
            await puppet.closed.wait()
        else:
            await until(lambda: not pump.follows(run.run_id))
            assert len(server.runs) == 1
            puppet.end()
        async with client.attach(run.run_id) as again:
            events = [event async for event in again]
        assert len(words(events)) == (2 * MAX_WAITING)
        assert events[-1].data["status"] == ("cancelled" if policy == "cancel" else "completed")
