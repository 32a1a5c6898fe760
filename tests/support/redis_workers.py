"""Workers that share a log in Redis, and what a test does with them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from redis.asyncio import Redis
from websockets.exceptions import WebSocketException

from support.followers import Address, AnyFollower, Broken, Refused, attach, check, events, number, start
from support.logs import LIMITS, Nobody, append, records, run_info
from support.redis_server import shared
from twinwire.log import Limits, RunInfo
from twinwire.log.orphan import Orphan
from twinwire.log.redis.link import Address as Where
from twinwire.log.redis.log import RedisLog
from twinwire.log.redis.scripts import Keys
from twinwire.log.saying import Outcome, Saying


class Listener(Nobody):
    """An `Owner` that keeps what it is told. It owns all but what it has `lost`."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.left: list[str] = []
        self.left_for_good: list[str] = []
        self.interrupted: set[str] = set()
        self.lost: set[str] = set()

    def cancel_here(self, run_id: str) -> None:
        self.cancelled.append(run_id)

    def unfollowed(self, run_id: str, *, left: bool) -> None:
        (self.left_for_good if left else self.left).append(run_id)

    def interrupt(self, run_ids: Collection[str] | None = None, why: str = "") -> None:  # noqa: ARG002 - the protocol's
        self.interrupted.update(run_ids or ())

    def owns(self, run_id: str) -> bool:
        return run_id not in self.lost


class Heir(Listener):
    """An `Owner` that claims with one record what it is offered while it is `willing`, and goes on with that."""

    def __init__(self, *, willing: bool = True) -> None:
        super().__init__()
        self.log: RedisLog
        self.willing = willing
        self.offered: list[Orphan] = []
        self.going: set[str] = set()
        self.said: list[str] = []

    async def take_over(self, orphan: Orphan) -> bool:
        self.offered.append(orphan)
        if not self.willing:
            return False
        run_id = orphan.info.run_id
        if await self.log.claim(orphan, records(run_id, orphan.last, 1)):
            self.going.add(run_id)
            self.lost.discard(run_id)
        return True

    async def hear(self, run_id: str, saying: Saying) -> Outcome | None:
        if run_id not in self.going:
            return None
        self.said.append(saying.content or "")
        return Outcome(message_id=saying.message_id)

    def cancel_here(self, run_id: str) -> None:
        if run_id in self.going:
            super().cancel_here(run_id)


@asynccontextmanager
async def worker(url: str, owner: Listener | None = None, limits: Limits = LIMITS) -> AsyncIterator[RedisLog]:
    """One worker's log, open until the block ends."""
    log = RedisLog(url, limits)
    if isinstance(owner, Heir):
        owner.log = log
    await log.open(owner or Listener())
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def raw() -> AsyncIterator[Redis]:
    """A client that sees the keys."""
    async with Redis(port=shared().port, protocol=2) as client:
        yield client


async def leftovers(log: str) -> list[str]:
    """Name what the log at this URL keeps for runs that go on, though all have ended, and what never goes."""
    keys = Keys(Where(log).namespace)
    async with raw() as redis:
        found = [name for name in (keys.live, keys.waiting) if await redis.exists(name)]
        async for name in redis.scan_iter(match=f"{keys.run('*')}", count=1000):
            key = bytes(name).decode()
            if key.endswith(":inbox"):
                found += [key] if await redis.ttl(name) < 0 else []
            elif key.endswith(":events"):
                run = key.removesuffix(":events")
                start, checkpoint, last = await redis.hmget(run, ["start", "checkpoint", "last"])
                found += [f"{run} {kept!r}" for kept in (start, checkpoint) if kept is not None]
                found += [f"{run} {last!r}"] if int(last or 0) != await redis.xlen(key) else []
    return found


async def begun(log: RedisLog, count: int = 0, key: str | None = None, *, start: bytes = b"") -> RunInfo:
    """Start a run that this worker owns."""
    info = msgspec.structs.replace(run_info(), owner=log.worker)
    await log.create(info, idempotency_key=key, start=start)
    if count:
        await append(log, info.run_id, 0, records(info.run_id, 0, count))
    return info


def die(log: RedisLog) -> None:
    """Stop this worker as `kill -9` would, as far as the others can tell: its lease is not renewed."""
    for task in log._tasks:
        task.cancel()


async def bereave(log: RedisLog, *, by: RedisLog) -> None:
    """Have this worker be gone for all others: it does nothing any more, and its lease is over."""
    die(log)
    await by._link.call("DEL", by._keys.worker(log.worker))


async def orphan_of(log: RedisLog, run_id: str) -> Orphan:
    """The orphan as this worker finds it."""
    orphan = await log._orphans._read(run_id)
    assert orphan is not None
    return orphan


async def sweep(log: RedisLog) -> None:
    """Have this worker see to all orphans that there are, and wait until it has."""
    log._orphans.meet(await log._leases._orphans())
    await asyncio.gather(*log._orphans._tasks.values())


async def follow(log: RedisLog, run_id: str) -> list[int]:
    """The numbers of all events of the run, read as a pump reads, as far as they come until the run ends."""
    news = asyncio.Event()
    leave = log.subscribe(run_id, news.set)
    seen: list[int] = []
    while True:
        page = await log.page(run_id, seen[-1] if seen else 0, 100)
        seen += [record.seq for record in page.records]
        if page.records:
            continue
        if page.ended:
            leave()
            return seen
        await news.wait()
        news.clear()


class Client:
    """Starts a run, or follows one, and after each break goes on at its cursor, on whichever server `choose()` gives.

    `options` are those of the start.
    What it has `seen` when it is done is checked: from the first event to the terminal one, each once.
    """

    def __init__(
        self, kind: str, choose: Callable[[], Address], *, message: str = "", run_id: str = "", **options: str
    ) -> None:
        self.kind = kind
        self.seen: list[dict[str, Any]] = []
        self.known = asyncio.Event()  # that there is a run
        self.started_on: Address | None = None
        self.breaks = 0  # of streams of a run that it knows; a worker that goes also closes what has asked nothing yet
        self.ended = 0.0  # on the monotonic clock
        self.run_id = run_id
        self._message = message
        self._options = {"idempotency_key": secrets.token_hex(8), "on_disconnect": "continue", **options}
        self._choose = choose

    async def run(self, first: Address | None = None) -> list[dict[str, Any]]:
        """Until the run has ended; `first` is the server to begin with."""
        server = first or self._choose()
        while not self.over:
            try:
                follower = await self._open(server)
                try:
                    async for event in events(follower):
                        self.saw(event)
                    assert self.over, "A stream ended cleanly, and its run did not."
                finally:
                    await follower.close()
            except (Broken, OSError, httpx.TransportError, WebSocketException):
                self.breaks += bool(self.run_id)
                await asyncio.sleep(0.02)
            except Refused as refused:
                if refused.code not in {"draining", "log_unavailable"}:
                    raise
                await asyncio.sleep(0.02)
            server = self._choose()
        self.ended = time.monotonic()
        check(self.seen)
        assert number(self.seen[0]) == 1
        return self.seen

    def saw(self, event: dict[str, Any]) -> None:
        """The next event has come."""
        self.seen.append(event)

    @property
    def over(self) -> bool:
        """Whether it has seen the terminal event."""
        return bool(self.seen) and self.seen[-1]["type"] in {"AGENT_FINISH", "ERROR"}

    async def _open(self, server: Address) -> AnyFollower:
        if self.run_id:
            return await attach(self.kind, server, self.run_id, number(self.seen[-1]) if self.seen else 0)
        follower = await start(self.kind, server, self._message, **self._options)
        self.run_id, self.started_on = follower.run_id, server
        self.known.set()
        return follower
