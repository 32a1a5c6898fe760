"""The Python client's reader slows a run down on a socket: whatever comes when, every event is read, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import pytest
from hypothesis import given, settings, strategies as st

from support.following import NOWHERE, connected, words
from support.serving import Puppets, Running, until
from twinwire_client.retry import Broken
from twinwire_client.run import Position
from twinwire_client.socket import Session
from twinwire_client.ws import FEW_WAITING, MAX_WAITING, _Connection

TOTAL = 3 * MAX_WAITING


def text(number: int) -> str:
    """The JSON of this event."""
    return f'{{"type":"{"AGENT_FINISH" if number == TOTAL else "TOLD"}","id":"{number}"}}'


class Played:
    """The session of one run, whose server obeys when the test lets it."""

    def __init__(self) -> None:
        self.commands: deque[dict[str, Any]] = deque()
        self.paused = False
        self.sent = 0
        self.connection = _Connection(cast("Session", self), Position(run_id=NOWHERE), renewable=False)

    def leave(self, run_id: str, connection: _Connection) -> None:
        assert (run_id, connection) == (NOWHERE, self.connection)
        connection.left = True

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
            self.connection.deliver(text(self.sent), last=self.sent == TOTAL)


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
                assert await played.connection.receive() == text(read)
            if played.paused and not played.commands:
                assert played.sent - read > FEW_WAITING
        assert read == TOTAL

    asyncio.run(play())


class Reader:
    """A run's reader in front of the same connection, which gives up waiting when it is told to."""

    def __init__(self, played: Played) -> None:
        self.read = 0
        self._connection = played.connection
        self._waiting: asyncio.Task[str] | None = None

    async def wait(self) -> None:
        """Begin to wait for an event, if none waits to be read."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._connection.receive())
            await asyncio.sleep(0)

    async def give_up(self) -> None:
        """Be cancelled, unless it has got one."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.wait([self._waiting])
            if self._waiting.cancelled():
                self._waiting = None

    async def take(self) -> None:
        """Read the next event, which is the one that is due; or raise why none comes."""
        await self.wait()
        assert self._waiting is not None
        waiting, self._waiting = self._waiting, None
        told = await waiting
        self.read += 1
        assert told == text(self.read)


WHATEVER = st.lists(
    st.tuples(st.sampled_from(["send", "read", "obey", "wait", "give up"]), st.integers(1, 700)), max_size=40
)


@settings(deadline=None)
@given(WHATEVER, st.sampled_from(["fail", "close", "end", "end and close"]))
def test_any_order_of_put_pause_wait_cancel_fail_and_close(steps: list[tuple[str, int]], how: str) -> None:
    """Whatever came before a connection fails or is closed: nothing is lost or repeated, and nobody waits in vain."""

    async def play() -> None:
        played = Played()
        reader = Reader(played)
        for what, count in steps:
            match what:
                case "send":
                    played.send(count)
                case "obey":
                    played.obey()
                case "wait":
                    await reader.wait()
                case "give up":
                    await reader.give_up()
                case "read":
                    for _ in range(min(count, played.sent - reader.read)):
                        await reader.take()
        if "end" in how:
            while played.sent < TOTAL:
                played.send(700)
                played.obey()
                for _ in range(min(300, played.sent - reader.read)):
                    await reader.take()
        await reader.wait()
        await asyncio.sleep(0)
        failure, sent = Broken("It broke."), played.sent
        if how == "fail":
            played.connection.fail(failure)
            played.connection.fail(Broken("It broke again."))
        elif how != "end":
            left = played.connection.whole()
            assert list(left) == [text(number) for number in range(TOTAL - len(left) + 1, TOTAL + 1)]
            assert bool(left) == (sent == TOTAL and bool(played.connection._texts))
            played.connection.close()
            played.connection.close()
            played.send(1)
        for _ in range(sent - reader.read):
            await reader.take()
        if how != "end":
            with pytest.raises(Broken) as caught:
                await reader.take()
            assert (caught.value is failure) == (how == "fail")
            with pytest.raises(Broken):
                await reader.take()

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
