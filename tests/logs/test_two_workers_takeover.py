"""Two whole servers on one Redis: a run moves from one to the other, and its followers and users hardly notice."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest

from support.followers import KINDS, Broken, attach, cancel, check, rest, say, start
from support.redis_server import fresh
from support.redis_workers import die
from support.serving import Running, serving, until
from twinwire.agents import RunRequest
from twinwire.log.redis.log import RedisLog

pytestmark = pytest.mark.parametrize("kind", KINDS)


class Counting:
    """A resumable agent that counts to four with a checkpoint for each; its first process stops at three.

    The second one waits for as many messages as `listens` says before it ends, and tells them.
    """

    resumable = True

    def __init__(self, listens: int = 0) -> None:
        self.stopped = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._listens = listens

    async def __call__(self, request: RunRequest) -> None:
        at = 0 if request.past is None else request.past.state
        for number in range(at + 1, 5):
            request.emit(f"{number} ")
            if number == 3 and request.past is None:
                self.stopped.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled.set()
            await request.checkpoint(number)
        for _ in range(self._listens):
            message = await anext(aiter(request.messages))
            request.emit(message.content)


def log_of(server: Running) -> RedisLog:
    log = server.runs.log
    assert isinstance(log, RedisLog)
    return log


async def counted(kind: str, server: Running, agent: Counting, **options: Any) -> Any:
    """A follower of a run there that has stopped at three, all of which is in the log."""
    follower = await start(kind, server, **options)
    await agent.stopped.wait()
    await until(lambda: server.runs.log.newest(follower.run_id) == 4)
    return follower


def resumed(seen: list[dict[str, Any]]) -> list[int]:
    """The epochs of a whole run, whose result is as if it had never moved."""
    check(seen)
    assert seen[-1]["data"]["result"] == "1 2 3 4 "
    return [event["data"]["epoch"] for event in seen if event["type"] == "RUN_RESUMED"]


async def test_a_server_that_is_taken_for_dead(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose lease ran out lets go of its run once another goes on with it; its followers see the whole run."""
    url, agent = fresh("&lease=1"), Counting()
    async with serving({"mine": agent}, log=url) as zombie, serving({"mine": agent}, log=url) as heir:
        follower = await counted(kind, zombie, agent, on_disconnect="cancel_after:0.1")
        there = await attach(kind, heir, follower.run_id)

        async def renew() -> None: ...

        monkeypatch.setattr(log_of(zombie)._leases, "renew", renew)
        assert resumed(await rest(follower)) == [1]
        assert resumed(await rest(there)) == [1]
        async with asyncio.timeout(10):
            await agent.cancelled.wait()
        await until(lambda: not zombie.runs._live)
        assert (await heir.runs.log.state(follower.run_id)).owner == heir.runs.log.worker


async def test_a_server_that_is_told_to_end(kind: str) -> None:
    """What a server puts down goes on elsewhere at once, and who follows it there sees the whole run."""
    url, agent = fresh("&lease=60"), Counting()
    async with serving({"mine": agent}, log=url) as ends, serving({"mine": agent}, log=url) as heir:
        follower = await counted(kind, ends, agent)
        there = await attach(kind, heir, follower.run_id)
        since = time.monotonic()
        await ends.service.drain()
        assert resumed(await rest(there)) == [1]
        print(f"it ended elsewhere {time.monotonic() - since:.3f} s after the drain had begun")
        with suppress(Broken):
            await rest(follower)


async def test_a_cancel_of_an_orphan(kind: str) -> None:
    """A cancel of a run whose server has died is accepted, and ends the run as soon as another goes on with it."""
    url, agent = fresh("&lease=1"), Counting(listens=1)
    async with serving({"mine": agent}, log=url) as dead, serving({"mine": agent}, log=url) as heir:
        follower = await counted(kind, dead, agent)
        there = await attach(kind, heir, follower.run_id)
        die(log_of(dead))
        assert await cancel(kind, heir, follower.run_id) == "accepted"
        seen = await rest(there)
        check(seen)
        assert [event["data"]["epoch"] for event in seen if event["type"] == "RUN_RESUMED"] == [1]
        assert (seen[-1]["data"]["status"], seen[-1]["data"]["reason"]) == ("cancelled", "user")
        assert await cancel(kind, heir, follower.run_id) == "already_finished"
        await follower.close()


async def test_a_message_to_an_orphan(kind: str) -> None:
    """A message to a run whose server has died is accepted by the one that goes on with it, and read once."""
    url, agent = fresh("&lease=1"), Counting(listens=2)
    async with serving({"mine": agent}, log=url) as dead, serving({"mine": agent}, log=url) as heir:
        follower = await counted(kind, dead, agent)
        there = await attach(kind, heir, follower.run_id)
        await until(lambda: log_of(heir)._leases._settled)
        die(log_of(dead))
        for message in ("one", "two"):
            saying = {"content": message, "message_id": message}
            assert (await say(kind, heir, follower.run_id, **saying))["status"] == "accepted"
        seen = await rest(there)
        check(seen)
        assert seen[-1]["data"]["result"] == "1 2 3 4 onetwo"
        assert [event["data"]["content"] for event in seen if event["type"] == "USER_MESSAGE"] == ["one", "two"]
        await follower.close()
