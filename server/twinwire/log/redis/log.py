"""The log in Redis, or Valkey: any worker on any machine serves, follows and cancels any run.

As durable as Redis is (`appendfsync`), and as large: it should not evict (`maxmemory-policy noeviction`). One endpoint
is spoken to; all keys of a namespace are in one slot of a cluster, so that a namespace is never split.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from itertools import chain
from typing import Any

import msgspec

from twinwire.log.backpressure import EXCESS_BYTES, NOBODY
from twinwire.log.base import (
    Cursor,
    Folded,
    Gauge,
    Limits,
    Listing,
    Owner,
    Page,
    Position,
    Quota,
    RunInfo,
    RunState,
    RunSummary,
    Unsubscribe,
    Wanted,
    folded_of,
)
from twinwire.log.interrupted import interrupted
from twinwire.log.quotas import refusal
from twinwire.log.redis.bound import Bound, memory
from twinwire.log.redis.check import Check
from twinwire.log.redis.control import RedisControl
from twinwire.log.redis.inbox import Inboxes
from twinwire.log.redis.leases import Leases
from twinwire.log.redis.link import CLOSE_SECONDS, Address, Link, WrongType, lenient
from twinwire.log.redis.lists import Lists, place
from twinwire.log.redis.reader import MALFORMED, Held, Reader, Stored, contiguous, load, owned, record
from twinwire.log.redis.scripts import APPEND, CREATE, KEEP, SOURCES, TRIM, Keys
from twinwire.log.tail import PAGE_BYTES, Tail, fitting
from twinwire.log.tails import Tails
from twinwire.protocol.errors import (
    CursorGone,
    IdempotencyMismatch,
    LogUnavailable,
    RunNotFound,
    SettingsError,
    StaleWriter,
)
from twinwire.protocol.events import Record, dump, outcome

logger = logging.getLogger("twinwire.log")

AGAIN_SECONDS = 0.5
ASK_SECONDS = 0.01
FOLDED_LOOKS, FOLDED_SECONDS = 10, 0.05

_info = msgspec.json.Decoder(RunInfo)


class RedisLog(RedisControl, Tails):
    """See `Store`, and `Address` for the URL. Raises `SettingsError` for one that is none.

    The limit on bytes is for each run; over it the oldest events of the run go. What all runs take is bounded by
    their retention and by Redis. Commands fail with `LogUnavailable` within two seconds, and the connection comes back
    by itself.
    """

    def __init__(self, url: str, limits: Limits) -> None:
        self._address = Address(url)
        super().__init__(limits, Keys(self._address.namespace), self._address.lease)
        self._open = False
        self._works: set[asyncio.Task[None]] = set()

    async def open(self, owner: Owner) -> None:
        """See `Store`. The worker is a new one: the process may be a fork."""
        if self._open:
            return
        self.worker = secrets.token_hex(8)
        self._owner = owner
        # Two links, so that no append waits behind a large page.
        self._link = Link(self._address, scripts=SOURCES)
        self._writes = Link(self._address, scripts=SOURCES)
        await self._link.probe()
        self._inboxes = Inboxes(self._link, self._keys, self.worker, owner, self._say)
        self._reader = Reader(self._address, self._link, self._keys, self.worker, obey=self._obey, heard=self.heard)
        self._lists = Lists(self._link, self._keys, self._reader)
        self._check = Check(self._link, self._keys, self.worker, self._address.lease, owner=owner, reader=self._reader)
        self._leases = Leases(
            self._link,
            self._keys,
            self.worker,
            self._address.lease,
            owner,
            renewed=lambda: self._announce(self._following),
            look=self._check.look_at,
            end=self._end_for,
        )
        try:
            await self._check.look()
            await self._say(self.worker, "look", "")  # the stream is there from now on, and expires with the lease
            await self._leases.renew()
            await self._reader.recall()
        except LogUnavailable:
            await self._link.close()
            raise SettingsError(
                f"The Redis at {self._address.name}, which `--log` names, cannot be written.", field="--log"
            ) from None
        await self._warn()
        self._open = True
        works = (
            self._reader.run,
            self._leases.keep,
            self._leases.reap,
            self._check.run,
            self._lists.tidy,
            self._keep_presence,
            *([self._bound().run] if self._address.private else []),
        )
        self._tasks = [asyncio.create_task(work()) for work in works]
        for task in self._tasks:
            task.add_done_callback(_report)

    def _bound(self) -> Bound:
        limits = self._limits
        return Bound(self._link, self._keys, self._lists, limits.max_bytes + limits.sessions_bytes)

    async def _warn(self) -> None:
        """Say that Redis may evict what is in this log, if it may and lets this user know."""
        try:
            facts = await memory(self._link)
        except LogUnavailable:
            return
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and facts.get("maxmemory") != "0":
            logger.warning(
                "The Redis at %s may evict runs (maxmemory-policy %s). Set it to noeviction.",
                self._address.name,
                policy,
            )

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        tasks = [*self._tasks, *self._works]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(self._reader.close(), self._inboxes.close())
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._retract(self._changed)
                await self._leases.release()
        except (LogUnavailable, TimeoutError):
            pass  # the lease runs out by itself
        await asyncio.gather(self._writes.close(), self._link.close())

    async def create(self, run: RunInfo, *, idempotency_key: str | None, quota: Quota | None = None) -> RunInfo:
        keys = self._keys
        key = None if idempotency_key is None else keys.idempotency(run.user_id, idempotency_key)
        bounds = () if quota is None else (quota.runs, quota.starts, round(quota.longest * 1000), quota.waiting)
        command = CREATE(
            *(keys.run(run.run_id), keys.live, keys.waiting, keys.starts(run.user_id), keys.runs_of(run.user_id)),
            keys.runs,
            *([] if key is None else [key]),
            run_id=run.run_id,
            info=msgspec.json.encode(run),
            owner=run.owner,
            place=place((run.created, run.run_id)),
            user=dump(run.user_id),
            rest=() if run.user_id is None else bounds,
        )
        self._leases.starting.add(run.run_id)
        try:
            reply = await self._writes.call(*command)
        finally:
            self._leases.starting.discard(run.run_id)
        if quota is not None and isinstance(reply, list):
            raise refusal(quota, *(milliseconds / 1000 for milliseconds in reply))
        try:
            known = _info.decode(reply)
        except MALFORMED:  # another program has written it
            raise LogUnavailable from None
        if known.run_id != run.run_id:
            if known.fingerprint != run.fingerprint:
                raise IdempotencyMismatch
            return known
        name = keys.events(run.run_id).encode()
        self._reader.held[run.run_id] = Held(name, own=True, current=True, key=key or "", retention=run.retention)
        return run

    async def append(self, run_id: str, expected_last: int, records: Sequence[Record]) -> None:
        if not self._open:
            raise StaleWriter(expected_last, expected_last)  # nobody writes to a closed log
        held = self._reader.held.get(run_id)
        own = held is not None and held.own
        try:
            if held is not None and held.gone:
                raise RunNotFound
            if held is not None and own:
                key, retention = held.key, held.retention
            else:
                stored = await load(self._writes, self._keys, run_id, newest=False)
                key, retention = stored.key, stored.info.retention
            first, due = await self._append(run_id, expected_last, records, key, held=held, retention=retention)
        except (StaleWriter, RunNotFound):
            self._reader.disown(run_id)
            raise
        if held is not None and own:
            if first > held.first or (due and records[-1].last):
                self._spawn(self._keep_folded(run_id, held, self._owner.folded(run_id)))
            held.first = first
            held.extend(records)
            if due:
                self._wait(run_id, held.tail, due)
            if records[-1].last:
                held.own = False
                self._reader.release(run_id, held)

    async def _append(
        self,
        run_id: str,
        expected_last: int,
        records: Sequence[Record],
        key: str,
        *,
        held: Held | None,
        retention: float | None,
    ) -> tuple[int, int]:
        """Return the number of the first event that is kept, and that up to which the run is to be trimmed, or 0."""
        slowest, waits = NOBODY, True
        if held is not None:
            backpressure = held.tail.backpressure
            slowest = held.tail.slowest(held.tail.cursors)
            waits = backpressure is None or backpressure.waits
        keys, limits = self._keys, self._limits
        shared = [keys.live, keys.waiting, keys.inbox(run_id), keys.followers(run_id)]
        names = [keys.run(run_id), keys.events(run_id), *shared, *([key] if key else [])]
        command = APPEND(
            *names,
            run_id=run_id,
            expected_last=expected_last,
            outcome=outcome(records[-1].body) if records[-1].last else b"",
            max_events=limits.max_events,
            max_bytes=limits.max_bytes,
            retention_ms=max(1, round((limits.retention if retention is None else retention) * 1000)),
            slowest=slowest,
            patient=int(waits),
            excess=EXCESS_BYTES,
            rest=chain.from_iterable((new.type, new.body, new.start, new.stop) for new in records),
        )
        status, *number = await self._writes.call(*command)
        if status == b"gone":
            raise RunNotFound
        if status == b"stale":
            raise StaleWriter(expected_last, *number)
        first, due, *cursors = number
        if held is not None and due:
            held.remote = _remote(cursors)
        return first, due

    async def _end_for(self, run_id: str, stored: Stored) -> None:
        """End an orphan."""
        ending = interrupted(stored.info, stored.last)
        await self._append(run_id, stored.last, ending, stored.key, held=None, retention=stored.info.retention)
        self._reader.disown(run_id)

    async def find(self, user_id: str | None, idempotency_key: str) -> RunInfo | None:
        known = await lenient(self._link.call("GET", self._keys.idempotency(user_id, idempotency_key)))
        try:
            return None if known is None else _info.decode(known)
        except MALFORMED:
            return None

    async def listed(self, wanted: Wanted, limit: int, before: Position | None = None) -> Listing:
        return await self._lists.listed(wanted, limit, before)

    async def delete(self, run_id: str) -> bool:
        return await self._lists.delete(await load(self._link, self._keys, run_id, newest=False))

    async def forget(self, user_id: str) -> None:
        await self._lists.forget(user_id)

    async def state(self, run_id: str, user_id: str | None = None) -> RunState:
        stored = await load(self._link, self._keys, run_id, user_id)
        if not stored.ended:
            await self._look_at(run_id, stored.key)
        return RunState(stored.info, stored.first, stored.last, stored.terminal, stored.size)

    async def _look_at(self, run_id: str, key: str) -> None:
        """Check a run that goes on, unless a timer of this worker does. Raises `RunNotFound`."""
        held = self._reader.held.get(run_id)
        if held is None or not (held.own or held.awaited):
            await self._check.look_at(run_id, key)

    async def summary(self, run_id: str, user_id: str | None = None) -> RunSummary:
        names = ("info", "first", "last", "ended", "outcome", "key")
        if user_id is None:
            fields = await lenient(self._link.call("HMGET", self._keys.run(run_id), *names))
        else:
            fields, _ = await owned(self._link, self._keys, run_id, user_id, names, newest=False)
        if fields is None:
            raise RunNotFound
        info, first, last, ended, told, key = fields
        try:
            summary, key = RunSummary(_info.decode(info), int(first), int(last), told or b""), key.decode()
        except MALFORMED:
            raise RunNotFound from None
        if ended != b"1":
            await self._look_at(run_id, key)
        elif told is None:  # a worker from before there were outcomes ended it
            terminal = (await self.state(run_id)).terminal
            if terminal is not None:
                summary = msgspec.structs.replace(summary, outcome=outcome(terminal.body))
        return summary

    async def page(self, run_id: str, after: int, limit: int) -> Page:
        held = self._reader.held.get(run_id)
        if held is not None and held.tail.backpressure is not None:
            self._reached(run_id, held.tail, after)
        if held is not None and held.gone:
            raise RunNotFound
        if held is not None and after == held.rewritten:
            raise CursorGone(held.first, after)
        if held is not None and (page := held.page(after, limit)) is not None:
            return page
        try:
            page = await self._fetch(run_id, after, limit)
        except LogUnavailable:
            if held is not None:
                asyncio.get_running_loop().call_later(AGAIN_SECONDS, held.tail.wake)
            raise
        if held is not None and not held.current:
            held.shown = page.last if held.shown is None else min(held.shown, page.last)
        return page

    async def _fetch(self, run_id: str, after: int, limit: int) -> Page:
        """Read a page from Redis: of older events, of a run that nobody here follows, or of events yet to come here."""
        stored = await load(self._link, self._keys, run_id, newest=False)
        if not stored.first - 1 <= after <= stored.last:
            raise CursorGone(stored.first, stored.last)
        if after == stored.last:
            return Page([], stored.first, stored.last, stored.ended)
        typical = 1 + stored.size // (stored.last - stored.first + 1)
        count = min(limit, 1 + PAGE_BYTES // typical)
        end = f"{stored.last}-0" if stored.ended else "+"
        name = self._keys.events(run_id)
        try:
            rows = await self._link.call("XRANGE", name, f"{after + 1}-0", end, "COUNT", count)
            records = contiguous([record(row) for row in rows])
        except (WrongType, *MALFORMED):
            raise RunNotFound from None
        if not records and stored.ended:
            raise RunNotFound  # it has lost its end
        if not records or records[0].seq != after + 1:
            raise CursorGone(records[0].seq if records else stored.last + 1, stored.last)  # trimmed meanwhile
        records = fitting(records)
        last = max(stored.last, records[-1].seq)
        return Page(records, stored.first, last, stored.ended or records[-1].last)

    async def folded(self, run_id: str) -> Folded | None:
        """See `EventLog`. The owner keeps it a moment after it has trimmed the run for the first time."""
        for _ in range(FOLDED_LOOKS):
            kept = await lenient(self._link.call("HGET", self._keys.run(run_id), "folded"))
            if kept is not None:
                break
            await asyncio.sleep(FOLDED_SECONDS)
        try:
            return None if kept is None else folded_of(kept)
        except MALFORMED:
            return None  # another program has written it

    async def ping(self) -> None:
        """See `EventLog`. Renews the lease: a Redis that answers may still be full, or a replica.

        Runs a script too, which an access list may forbid: no run starts without one.
        """
        await self._leases.renew()
        await self.vacate((None, None), "")

    def gauges(self) -> Sequence[Gauge]:
        return ()

    def _tail(self, run_id: str) -> Tail | None:
        held = self._reader.held.get(run_id)
        return None if held is None else held.tail

    def subscribe(self, run_id: str, wake: Callable[[], None], cursor: Cursor | None = None) -> Unsubscribe:
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
                held.remote = _remote(await lenient(self._link.call("HGETALL", self._keys.followers(run_id))) or [])
                self._reached(run_id, held.tail, NOBODY)
        held.asks = False

    def _trim(self, run_id: str, upto: int) -> None:
        self._spawn(self._trim_events(run_id, upto))

    async def _trim_events(self, run_id: str, upto: int) -> None:
        keys, held = self._keys, self._reader.held.get(run_id)
        with contextlib.suppress(LogUnavailable, WrongType):  # then the next append trims the run
            first = await self._writes.call(*TRIM(keys.run(run_id), keys.events(run_id), upto=upto))
            if held is not None and first is not None:
                held.first = max(held.first, first)
                await self._keep_folded(run_id, held, self._owner.folded(run_id))
        if held is not None:
            self._reader.release(run_id, held)

    async def _keep_folded(self, run_id: str, held: Held, folded: Folded | None) -> None:
        """Keep the state of a run that was trimmed, once all of its events are there."""
        if folded is None:
            return
        while held.own and held.tail.last < folded.seq:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(ASK_SECONDS)
        if held.tail.last >= folded.seq:
            with contextlib.suppress(LogUnavailable, WrongType):  # then the next trim keeps a newer one
                await self._writes.call(*KEEP(self._keys.run(run_id), folded=dump(folded)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    def _obey(self, operation: str, run_id: str, outcome: bytes) -> None:
        if operation == "inbox":
            self._inboxes.look(run_id)
        elif operation == "told":
            self._inboxes.told(run_id, outcome)
        elif operation == "cursor":
            self._tell(run_id, self._changed.get(run_id, "unfollowed"))
        elif operation == "cancel":
            self._owner.cancel_here(run_id)
        elif operation in {"unfollowed", "left"}:
            self._owner.unfollowed(run_id, left=operation == "left")


def _remote(cursors: Sequence[bytes]) -> dict[str, int]:
    """Return the lowest cursor of each other worker's followers, of those that have any."""
    pairs = zip(cursors[::2], cursors[1::2], strict=True)
    return {worker.decode(): int(cursor) for worker, cursor in pairs if cursor.isdigit()}


def _report(task: asyncio.Task[None]) -> None:
    """None of the tasks ends by itself: that would be a fault in this program."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("A task of the Redis log has failed.", exc_info=error)
