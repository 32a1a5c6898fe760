"""The trimming of runs in Redis: followers on all workers are waited for, and the state of what went is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twinwire.log.backpressure import NOBODY
from twinwire.log.base import Cursor, Folded, Limits, Unsubscribe
from twinwire.log.redis.control import RedisControl
from twinwire.log.redis.link import CLOSE_SECONDS, Link, WrongType, lenient
from twinwire.log.redis.reader import Held, Reader
from twinwire.log.redis.scripts import KEEP, TRIM, Keys
from twinwire.log.tail import Tail
from twinwire.log.tails import Tails
from twinwire.protocol.errors import LogUnavailable
from twinwire.protocol.events import dump

ASK_SECONDS = 0.01


class RedisTails(RedisControl, Tails):
    """See `Tails`. Appends and trims go over `_writes`, so that they wait behind no page."""

    _writes: Link
    _reader: Reader

    def __init__(self, limits: Limits, keys: Keys, lease: float) -> None:
        super().__init__(limits, keys, lease)
        self._works: set[asyncio.Task[None]] = set()

    def _tail(self, run_id: str) -> Tail | None:
        held = self._reader.held.get(run_id)
        return None if held is None else held.tail

    def subscribe(self, run_id: str, wake: Callable[[], None], cursor: Cursor | None = None) -> Unsubscribe:
        """See `EventLog`."""
        return self._reader.subscribe(run_id, wake, cursor)

    def _cursors(self, run_id: str, tail: Tail) -> dict[object, int]:
        cursors = tail.cursors
        if (held := self._reader.held.get(run_id)) is not None:
            for worker, cursor in held.remote.items():
                cursors[worker] = cursor
        return cursors

    def _cursor(self, run_id: str) -> int | str:
        tail = self._tail(run_id)
        return "" if tail is None else min(tail.cursors.values(), default="")

    def _remote(self, cursors: Sequence[bytes]) -> dict[str, int]:
        """Return the lowest cursor of each other worker's followers, of those that have any."""
        pairs = zip(cursors[::2], cursors[1::2], strict=True)
        remote = {worker.decode(): int(cursor) for worker, cursor in pairs if cursor.isdigit()}
        remote.pop(self.worker, None)  # from before this worker claimed the run
        return remote

    def _wait(self, run_id: str, tail: Tail, due: int) -> None:
        super()._wait(run_id, tail, due)
        held = self._reader.held.get(run_id)
        if held is not None and not held.asks:
            held.asks = True
            self._spawn(self._ask(run_id, held))

    async def _ask(self, run_id: str, held: Held) -> None:
        """Ask the other workers how far their followers have read, for as long as the run waits."""
        while held.tail.backpressure is not None and held.tail.backpressure.due:
            with contextlib.suppress(LogUnavailable):
                await asyncio.gather(*(self._say(worker, "cursor", run_id) for worker in held.remote))
            await asyncio.sleep(ASK_SECONDS)
            with contextlib.suppress(LogUnavailable):
                cursors = await lenient(self._link.call("HGETALL", self._keys.followers(run_id))) or []
                held.remote = self._remote(cursors)
                self._reached(run_id, held.tail, NOBODY)
        held.asks = False

    def _trim(self, run_id: str, upto: int) -> None:
        self._spawn(self._trim_events(run_id, upto))

    async def _trim_events(self, run_id: str, upto: int) -> None:
        keys, held = self._keys, self._reader.held.get(run_id)
        command = TRIM(keys.run(run_id), keys.events(run_id), upto=upto, owner=self.worker)
        with contextlib.suppress(LogUnavailable, WrongType):  # then the next append trims the run
            first = await self._writes.call(*command)
            if held is not None and first is not None:
                held.first = max(held.first, first)
                await self._keep_folded(run_id, held, self._owner.folded(run_id))
        if held is not None:
            self._reader.release(run_id, held)

    def _keep(self, run_id: str, held: Held) -> None:
        """Keep the state of a run, whose first events were trimmed, as it is now."""
        self._spawn(self._keep_folded(run_id, held, self._owner.folded(run_id)), name=run_id)

    async def _keep_folded(self, run_id: str, held: Held, folded: Folded | None) -> None:
        """Keep this state of a run once all of its events are there."""
        if folded is None:
            return
        while held.own and held.tail.last < folded.seq:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(ASK_SECONDS)
        if held.tail.last >= folded.seq:
            command = KEEP(self._keys.run(run_id), folded=dump(folded), owner=self.worker)
            with contextlib.suppress(LogUnavailable, WrongType):  # then the next trim keeps a newer one
                await self._writes.call(*command)

    async def _kept(self, run_id: str) -> None:
        """Wait until a run's state is kept, if it is to be; not for long."""
        if keeping := [task for task in self._works if task.get_name() == run_id]:
            await asyncio.wait(keeping, timeout=CLOSE_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str | None = None) -> None:
        task = asyncio.create_task(work, name=name)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
