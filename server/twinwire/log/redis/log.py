"""The log in Redis, or Valkey: any worker on any machine serves, follows and cancels any run.

As durable as Redis is (`appendfsync`), and as large: it should not evict (`maxmemory-policy noeviction`). One endpoint
is spoken to; all keys of a namespace are in one slot of a cluster, so that a namespace is never split.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Sequence

import msgspec

from twinwire.log.backpressure import EXCESS_BYTES, NOBODY
from twinwire.log.base import (
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
    Wanted,
    folded_of,
)
from twinwire.log.interrupted import interrupted
from twinwire.log.orphan import Orphan
from twinwire.log.quotas import refusal
from twinwire.log.redis.appends import Appends
from twinwire.log.redis.bound import Bound, memory
from twinwire.log.redis.check import Check
from twinwire.log.redis.inbox import Inboxes
from twinwire.log.redis.leases import Leases
from twinwire.log.redis.link import CLOSE_SECONDS, Address, Link, WrongType, lenient
from twinwire.log.redis.lists import Lists, place
from twinwire.log.redis.orphans import Orphans
from twinwire.log.redis.reader import MALFORMED, Held, Reader, Stored, contiguous, fields, load, owned, record
from twinwire.log.redis.scripts import APPEND, CLAIM, CREATE, RELEASE, RELEASED, SOURCES, Keys
from twinwire.log.redis.trim import RedisTails
from twinwire.log.tail import PAGE_BYTES, fitting
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
FOLDED_LOOKS, FOLDED_SECONDS = 10, 0.05

_info = msgspec.json.Decoder(RunInfo)


class RedisLog(RedisTails):
    """See `Store`, and `Address` for the URL. Raises `SettingsError` for one that is none.

    The limit on bytes is for each run; over it the oldest events of the run go. What all runs take is bounded by
    their retention and by Redis. Commands fail with `LogUnavailable` within two seconds, and the connection comes back
    by itself.
    """

    outlives = True

    def __init__(self, url: str, limits: Limits) -> None:
        self._address = Address(url)
        super().__init__(limits, Keys(self._address.namespace), self._address.lease)
        self._open = False

    async def open(self, owner: Owner) -> None:
        """See `Store`. The worker is a new one: the process may be a fork."""
        if self._open:
            return
        self.worker = secrets.token_hex(8)
        self._owner = owner
        # Two links, so that no append waits behind a large page.
        self._link = Link(self._address, scripts=SOURCES)
        self._writes = Link(self._address, scripts=SOURCES)
        self._appends = Appends(self._writes, self._limits, kept=self._extend, alone=self._append_alone)
        await self._link.probe()
        life = self._limits.longest
        self._inboxes = Inboxes(self._link, self._keys, self.worker, owner, tell=self._say, life=life)
        self._reader = Reader(self._address, self._link, self._keys, self.worker, obey=self._obey, heard=self.heard)
        self._lists = Lists(self._link, self._keys, self._reader)
        self._check = Check(self._link, self._keys, self.worker, self._address.lease, owner=owner, reader=self._reader)
        self._orphans = Orphans(
            self._link,
            self._keys,
            self.worker,
            owner,
            look=self._check.look_at,
            end=self._end_for,
            lost=self._reader.disown,
            taken=self._inboxes.look,
            claim_timeout=self._limits.claim_timeout,
        )
        self._leases = Leases(
            self._link,
            self._keys,
            self.worker,
            self._address.lease,
            owner,
            renewed=lambda: self._announce(self._following),
            orphaned=self._orphans.meet,
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
        await asyncio.gather(self._reader.close(), self._inboxes.close(), self._orphans.close())
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._retract(self._changed)
                await self._leases.release()
        except (LogUnavailable, TimeoutError):
            pass  # the lease runs out by itself
        self._appends.send()
        await asyncio.gather(self._writes.close(), self._link.close())

    async def create(
        self, run: RunInfo, *, idempotency_key: str | None, quota: Quota | None = None, start: bytes = b""
    ) -> RunInfo:
        keys = self._keys
        key = None if idempotency_key is None else keys.idempotency(run.user_id, idempotency_key)
        bounds: tuple[int, ...] = ()
        if quota is not None:
            life = self._limits.longest if start else 0.0  # the run may rest between two workers
            bounds = (quota.runs, quota.starts, round(quota.longest * 1000), quota.waiting, round(life * 1000))
        command = CREATE(
            *(keys.run(run.run_id), keys.live, keys.waiting, keys.starts(run.user_id), keys.runs_of(run.user_id)),
            keys.runs,
            *([] if key is None else [key]),
            run_id=run.run_id,
            info=msgspec.json.encode(run),
            owner=self.worker,
            place=place((run.created, run.run_id)),
            user=dump(run.user_id),
            beginning=start,
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

    def append(
        self, run_id: str, expected_last: int, records: Sequence[Record], checkpoint: bytes | None = None
    ) -> Awaitable[None]:
        """See `EventLog`. What only adds events to a run of this worker goes out with that of others."""
        held = self._reader.held.get(run_id)
        plain = bool(records) and checkpoint is None and not records[-1].last
        if held is None or not held.own or held.gone or not plain or not self._open:
            return self._append_alone(run_id, expected_last, records, checkpoint)
        return self._appends.append(self._keys.run(run_id), run_id, held, expected_last, records)

    async def _append_alone(
        self, run_id: str, expected_last: int, records: Sequence[Record], checkpoint: bytes | None = None
    ) -> None:
        """Append with all that may come of it: the run may end, be trimmed, or be another worker's."""
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
            first, due = await self._append(
                run_id, expected_last, records, key, held=held, retention=retention, checkpoint=checkpoint
            )
        except (StaleWriter, RunNotFound):
            self._reader.disown(run_id)
            raise
        if held is not None and own:
            ends = bool(records) and records[-1].last
            self._extend(run_id, held, records, first, folds=due > 0 and ends)
            if due:
                self._wait(run_id, held.tail, due)
            if ends:
                held.own = False
                self._reader.release(run_id, held)

    def _extend(self, run_id: str, held: Held, records: Sequence[Record], first: int, *, folds: bool = False) -> None:
        """Redis has these records of a run of this worker, whose oldest event is number `first`.

        If older ones are gone, or will be, their state is kept; `folds` says that they will.
        """
        if folds or first > held.first:
            self._keep(run_id, held)
        held.first = first
        if records:
            held.extend(records)

    async def _append(
        self,
        run_id: str,
        expected_last: int,
        records: Sequence[Record],
        key: str,
        *,
        held: Held | None,
        retention: float | None,
        checkpoint: bytes | None = None,
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
        rest = fields(records)
        if checkpoint is not None:
            rest = (*rest, checkpoint)
        command = APPEND(
            *names,
            run_id=run_id,
            expected_last=expected_last,
            outcome=outcome(records[-1].body) if records and records[-1].last else b"",
            max_events=limits.max_events,
            max_bytes=limits.max_bytes,
            retention_ms=max(1, round((limits.retention if retention is None else retention) * 1000)),
            slowest=slowest,
            patient=int(waits),
            excess=EXCESS_BYTES,
            rest=rest,
        )
        status, *number = await self._writes.call(*command)
        if status == b"gone":
            raise RunNotFound
        if status == b"stale":
            raise StaleWriter(expected_last, *number)
        first, due, *cursors = number
        if held is not None and due:
            held.remote = self._remote(cursors)
        return first, due

    async def _end_for(self, run_id: str, stored: Stored) -> None:
        """End an orphan."""
        ending = interrupted(stored.info, stored.last)
        await self._append(run_id, stored.last, ending, stored.key, held=None, retention=stored.info.retention)
        self._reader.disown(run_id)

    async def claim(self, orphan: Orphan, records: Sequence[Record]) -> bool:
        """See `Control`. The run must begin here with no await between: the log may ask who `owns` it."""
        keys, run_id = self._keys, orphan.info.run_id
        held = self._reader.held.get(run_id)
        if run_id in self._leases.starting or (held is not None and held.own):
            return False  # this worker has claimed it, or is about to
        command = CLAIM(
            *(keys.run(run_id), keys.events(run_id), keys.live, keys.followers(run_id), keys.worker(orphan.owner)),
            run_id=run_id,
            claimer=self.worker,
            owner=orphan.owner,
            last=orphan.last,
            epoch=orphan.epoch,
            rest=fields(records),
        )
        self._leases.starting.add(run_id)
        try:
            claimed = await self._writes.call(*command)
        finally:
            self._leases.starting.discard(run_id)
        if claimed is None:
            return False
        first, key = claimed
        self._reader.adopt(orphan, first, key.decode(), records)
        self._following.discard(run_id)  # whoever follows it here follows a run of this worker now
        self._changed.pop(run_id, None)
        return True

    async def release(self, run_id: str) -> None:
        """See `Control`. If Redis is away, the run is free when the lease is over."""
        await self._kept(run_id)
        self._reader.disown(run_id)
        names = self._keys.run(run_id), self._keys.live, self._keys.released
        life_ms = 3 * self._lease_ms
        command = RELEASE(*names, run_id=run_id, owner=self.worker, nobody=RELEASED, life_ms=life_ms)
        with contextlib.suppress(LogUnavailable):
            await self._writes.call(*command)

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
        owner = "" if stored.owner == RELEASED else stored.owner
        return RunState(stored.info, stored.first, stored.last, stored.terminal, stored.size, owner)

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

    def _obey(self, operation: str, run_id: str, outcome: bytes) -> None:
        if operation == "inbox":
            self._inboxes.look(run_id)
        elif operation == "released":
            self._leases.hurry()
        elif operation == "told":
            self._inboxes.told(run_id, outcome)
        elif operation == "cursor":
            self._tell(run_id, self._changed.get(run_id, "unfollowed"))
        elif operation in {"unfollowed", "left"}:
            self._owner.unfollowed(run_id, left=operation == "left")


def _report(task: asyncio.Task[None]) -> None:
    """None of the tasks ends by itself: that would be a fault in this program."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("A task of the Redis log has failed.", exc_info=error)
