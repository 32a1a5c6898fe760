"""The log in a SQLite file: survives the end of its process, for one process at a time.

Every event is committed before anybody sees it. What is committed survives `kill -9`; it survives a loss of power only
with `?synchronous=full`, which waits for the disk at each commit. The newest events of runs that go on are in memory,
too, so that followers who keep up read no file.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import Struct

from twinwire.log.backpressure import NOBODY
from twinwire.log.base import (
    LOST_EVENTS,
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
    SessionKey,
    Unsubscribe,
    Wanted,
)
from twinwire.log.control import LocalControl
from twinwire.log.orphan import Orphan
from twinwire.log.saying import Outcome, Saying
from twinwire.log.sessions import messages
from twinwire.log.sqlite.appends import Append, Appends
from twinwire.log.sqlite.file import key_of, parse
from twinwire.log.sqlite.offers import Offers
from twinwire.log.sqlite.opening import opening
from twinwire.log.sqlite.orphans import Claimed, Recovered, claim, recover
from twinwire.log.sqlite.reader import Reader
from twinwire.log.sqlite.tables import Tables
from twinwire.log.sqlite.writer import Job, Writer
from twinwire.log.tail import Tail
from twinwire.log.tails import Tails
from twinwire.protocol.errors import CursorGone, LogLost, LogUnavailable, SettingsError
from twinwire.protocol.events import Record, dump, outcome

logger = logging.getLogger("twinwire.log")

TAIL_EVENTS = 1024
TAIL_BYTES = 2**18
AGAIN_SECONDS = 1.0
PING_SECONDS = 1.0


class _Live(Struct, gc=False):
    """A run whose events come from this process. `first` is what the file has; the tail may have less.

    `due` is the number up to which it is to be trimmed once its followers have read that.
    """

    info: RunInfo
    owner: str
    tail: Tail
    first: int = 1
    size: int = 0
    due: int = 0


class SqliteLog(LocalControl, Tails):
    """See `Store`.

    The limit on bytes holds give or take what is being written and deleted, and what followers have yet to read
    (`EXCESS_BYTES`); if no ended run is left, the oldest events of the run that appends go. `clock` is monotonic.

    A log whose file is deleted, replaced, cut or damaged is lost until the server is restarted: all methods raise
    `LogLost`, the runs end, and their followers are woken to hear of it.
    """

    outlives = True

    def __init__(self, url: str, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(limits)
        self._place = parse(url)
        self._limits = limits
        self._clock = clock
        self._live: dict[str, _Live] = {}
        self._spared: set[str] = set()  # ended runs that followers have yet to read to the end
        self._keeping: dict[str, asyncio.Future[Any]] = {}  # of ended runs that were trimmed: their states
        self._past = Tail()  # the subscribers of runs that are not live
        self._writer: Writer | None = None
        self._opening: asyncio.Future[None] | None = None
        self._recovered = Recovered(0, ())
        self._reader = Reader(self._place.path, self._damaged)
        self._appends = Appends(self._put, kept=self._appended, refused=self._refused)
        self._lost = False

    async def open(self, owner: Owner) -> None:
        """See `Store`. Runs that a process before this one left open go on here, or are ended."""
        if self._opening is None:
            self._owner = owner
            self._opening = asyncio.ensure_future(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        enter = partial(opening, self._place, self._reader, self._recover)
        writer = self._writer = Writer(
            enter, asyncio.get_running_loop(), on_lost=self._lose, on_disturbed=self._disturbed
        )
        writer.start()
        await asyncio.shield(writer.opened)
        try:
            taken = await Offers(self._owner, self._do, self._tail, self._give_up).make(self._recovered.orphans)
        except LogUnavailable:
            writer.stop()
            await asyncio.shield(writer.closed)
            raise SettingsError(
                f"`--log` names {self._place.name}, which cannot be used: its open runs cannot be read or ended.",
                field="--log",
            ) from None
        ended = self._recovered.ended + len(self._recovered.orphans) - taken
        if taken:
            logger.info("The last end of the server had cut off %d runs, which go on now.", taken)
        if ended:
            logger.warning("The last end of the server interrupted %d runs.", ended)

    async def close(self) -> None:
        """See `Store`. Runs that have not ended stay open in the file, and the next start offers them."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._writer is not None:
            self._appends.send()
            self._writer.stop()
            await asyncio.shield(self._writer.closed)

    async def create(
        self, run: RunInfo, *, idempotency_key: str | None, quota: Quota | None = None, start: bytes = b""
    ) -> RunInfo:
        """See `EventLog`. A restart forgets who started how many within the minute."""
        key = None if idempotency_key is None else key_of(run.user_id, idempotency_key)

        def created(known: RunInfo) -> None:
            if known is run:
                self._live[run.run_id] = _Live(run, run.owner, Tail())

        known: RunInfo = await self._do(lambda tables: tables.create(run, key, quota, start), created, 1, len(start))
        return known

    def append(
        self, run_id: str, expected_last: int, records: Sequence[Record], checkpoint: bytes | None = None
    ) -> asyncio.Future[None]:
        """See `EventLog`. Done when it is committed; `LogUnavailable` if that fails, and then nothing was written."""
        live = self._live.get(run_id)
        slowest, retention = (NOBODY, None) if live is None else (self._slowest(run_id, live.tail), live.info.retention)
        if slowest != NOBODY and records and records[-1].last:
            self._spared.add(run_id)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return self._appends.append(Append(run_id, expected_last, records, slowest, retention, checkpoint, done))

    def _appended(self, append: Append, bounds: tuple[int, int] | None) -> None:
        """The file has these records; the numbers are those of `Tables.append`."""
        run_id, records = append.run_id, append.records
        live = self._live.get(run_id)
        if live is None or bounds is None:
            self._spared.discard(run_id)
            return
        live.first, due = bounds
        live.size += live.tail.append(append.expected_last, records)
        live.tail.trim(live.tail.excess(TAIL_EVENTS, TAIL_BYTES))
        live.due = max(live.due, due)
        if records[-1].last and (live.first > 1 or due) and (folded := self._owner.folded(run_id)) is not None:
            kept = self._keeping[run_id] = self._do(lambda tables: tables.keep(run_id, dump(folded)))
            kept.add_done_callback(functools.partial(self._kept, run_id))
        if due or run_id in self._spared:
            self._wait(run_id, live.tail, live.tail.last if run_id in self._spared else due)
        self._let_go(run_id)

    async def find(self, user_id: str | None, idempotency_key: str) -> RunInfo | None:
        self._check()
        return await self._reader.find(key_of(user_id, idempotency_key))

    async def listed(self, wanted: Wanted, limit: int, before: Position | None = None) -> Listing:
        self._check()
        return await self._reader.listed(wanted, limit, before)

    async def state(self, run_id: str, user_id: str | None = None) -> RunState:
        self._check()
        live = self._live.get(run_id)
        if live is None or user_id not in {None, live.info.user_id}:  # a foreign run is looked up as an unknown one is
            return await self._reader.state(run_id, user_id)
        return RunState(live.info, live.first, live.tail.last, live.tail.terminal, live.size, live.owner)

    async def summary(self, run_id: str, user_id: str | None = None) -> RunSummary:
        self._check()
        live = self._live.get(run_id)
        if live is None or user_id not in {None, live.info.user_id}:
            return await self._reader.summary(run_id, user_id)
        ended = live.tail.terminal
        return RunSummary(live.info, live.first, live.tail.last, b"" if ended is None else outcome(ended.body))

    async def page(self, run_id: str, after: int, limit: int) -> Page:
        """See `EventLog`; never suspends for a follower that keeps up with a run that goes on."""
        self._check()
        live = self._live.get(run_id)
        if live is None:
            return await self._read(run_id, after, limit, None)
        tail = live.tail
        if tail.backpressure is not None:
            self._reached(run_id, tail, after)
        if live.first - 1 <= after < tail.first - 1:
            return await self._read(run_id, after, limit, tail)
        if not live.first - 1 <= after <= tail.last:
            raise CursorGone(live.first, tail.last)
        page = tail.page(after, limit)
        return Page(page.records, live.first, page.last, page.ended)

    async def delete(self, run_id: str) -> bool:
        """See `EventLog`. Done when neither the file nor its write-ahead log has anything of the run."""
        self._check()
        number: int | None = await self._do(lambda tables: tables.delete(run_id), lambda gone: self._part(gone, run_id))
        if number is None:
            return False
        try:
            await self._erase([number])
            await self._empty(rewrite=False)
        except LogUnavailable:
            logger.warning("The run %s was deleted, but the files of the SQLite log may have it for a while.", run_id)
        return True

    async def forget(self, user_id: str) -> None:
        """See `EventLog`. Done when neither the file nor its write-ahead log has anything of them."""
        self._check()

        def parted(runs: dict[int, str]) -> None:
            for number, run_id in runs.items():
                self._part(number, run_id)

        while runs := await self._do(lambda tables: tables.forget(user_id), parted):
            await self._erase(runs)
        await self._empty(rewrite=True)

    def _part(self, number: int | None, run_id: str) -> None:
        """Hold nothing of a run that was deleted, and wake its followers."""
        if number is not None:
            self._spared.discard(run_id)
            if (live := self._live.get(run_id)) is not None:
                live.tail.wake()  # before it goes, as in `_give_up`
                self._live.pop(run_id, None)

    async def _erase(self, runs: Collection[int]) -> None:
        """Delete the events of runs that are gone."""
        for run in runs:
            while await self._do(partial(Tables.sweep, run=run)):
                pass

    async def _empty(self, *, rewrite: bool) -> None:
        """Leave no copy of what was deleted, as `Checkpoints.empty`. Raise `LogUnavailable` if one may be left."""
        if self._writer is not None:
            await self._writer.empty(rewrite=rewrite)

    async def folded(self, run_id: str) -> Folded | None:
        self._check()
        if (kept := self._keeping.get(run_id)) is not None:
            await asyncio.wait([kept])
        return await self._reader.folded(run_id)

    def _kept(self, run_id: str, kept: asyncio.Future[Any]) -> None:
        del self._keeping[run_id]
        _nobody(kept)

    async def ping(self) -> None:
        """See `EventLog`. Writes, unless something was written within the last second; reads, if a read failed."""
        self._check()
        if self._reader.failing:
            await self._reader.find("")
        writer = self._writer
        if writer is None or not writer.healthy or time.monotonic() - writer.committed_at > PING_SECONDS:
            await self._do(lambda tables: tables.touch())

    def gauges(self) -> Sequence[Gauge]:
        size = 0 if self._writer is None else self._writer.wal_bytes
        return [Gauge("sqlite_wal_bytes", "Size of the SQLite log's write-ahead log", size)]

    def _tail(self, run_id: str) -> Tail | None:
        live = self._live.get(run_id)
        return None if live is None else live.tail

    def subscribe(self, run_id: str, wake: Callable[[], None], cursor: Cursor | None = None) -> Unsubscribe:
        """See `EventLog`. A run that has ended wakes its followers only if it could not be read."""
        live = self._live.get(run_id)
        unsubscribe = self._past.subscribe(wake) if live is None else live.tail.subscribe(wake, cursor)

        def leave() -> None:
            unsubscribe()
            self._let_go(run_id)

        return leave

    def _trim(self, run_id: str, upto: int) -> None:
        live = self._live.get(run_id)
        if live is None or live.tail.ended:  # else its end may be on its way into the file
            self._spared.discard(run_id)
        if live is not None:
            self._trim_some(run_id, live, min(upto, live.due))

    def _trim_some(self, run_id: str, live: _Live, upto: int) -> None:
        """Trim a run bit by bit, so that no append waits for long."""

        def trimmed(first: int) -> None:
            live.first = max(live.first, first)
            self._trim_some(run_id, live, upto)

        if live.first <= upto:
            self._do(lambda tables: tables.trim(run_id, upto), trimmed).add_done_callback(_nobody)
        self._let_go(run_id)

    async def history(self, session: SessionKey) -> list[dict[str, str]]:
        """See `Control`; kept in the file."""
        return messages(await self._do(lambda tables: tables.conversations.history(session)))

    async def remember(self, session: SessionKey, question: str, answer: str) -> None:
        """See `Control`; kept in the file."""
        await self._do(lambda tables: tables.conversations.remember(session, question, answer))

    async def claim(self, orphan: Orphan, records: Sequence[Record]) -> bool:
        """See `Control`."""
        run_id = orphan.info.run_id

        def claimed(found: Claimed | None) -> None:
            if found is not None:
                tail = Tail()
                tail.restart(records[0].seq, records)
                self._live[run_id] = _Live(orphan.info, self.worker, tail, found.first, found.size)

        if run_id in self._live:
            return False
        size = sum([len(record.body) for record in records])
        found = await self._do(lambda tables: claim(tables, orphan, self.worker, records), claimed, len(records), size)
        return found is not None

    async def release(self, run_id: str) -> None:
        """See `Control`. The next start offers it."""
        if run_id in self._live:
            self._spared.discard(run_id)
            self._give_up(run_id)
            with suppress(LogUnavailable):
                await self._do(lambda tables: tables.resumable.release(run_id))

    async def cancel(self, run: RunInfo) -> None:
        """See `Control`. The file keeps it for the next start, if the run is open then."""
        await self._do(lambda tables: tables.resumable.cancel(run.run_id))

    async def tell(self, run: RunInfo, saying: Saying) -> Outcome:
        """See `Control`. Nobody hears what is said to a run that goes on nowhere."""
        if (await self.state(run.run_id)).terminal is None:
            raise LogUnavailable
        return await super().tell(run, saying)

    async def _read(self, run_id: str, after: int, limit: int, live: Tail | None) -> Page:
        """Read a page from the file. If that fails, wake the followers of such runs later, to try again."""
        try:
            # Of a live run as far as this process knows: what is committed this moment has not woken anybody yet.
            return await self._reader.page(run_id, after, limit, None if live is None else live.last)
        except LogUnavailable:
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, (live or self._past).wake)
            raise

    def _check(self) -> None:
        if self._lost:
            raise LogLost

    def _lose(self) -> None:
        """End the runs and wake all followers: there is no log any more."""
        self._lost = True
        self._owner.interrupt()
        for live in list(self._live.values()):
            live.tail.wake()
        self._past.wake()

    def _disturbed(self) -> None:
        """Find out whether another program, which has written to the file, has taken runs that go on, or their events.

        Such a run ends: with an ERROR if it still can be written, and else it is what the file has of it.
        """
        known = {run_id: live.tail.last for run_id, live in self._live.items() if not live.tail.ended}

        def found(lost: dict[str, bool]) -> None:
            for run_id in lost:
                logger.warning("Another program has deleted the run %s, or events of it. The run ends.", run_id)
            self._owner.interrupt(lost, LOST_EVENTS)
            for run_id in [run_id for run_id, writable in lost.items() if not writable]:
                self._give_up(run_id)

        if known:
            self._do(lambda tables: tables.damaged(known), found).add_done_callback(_nobody)

    def _refused(self, run_id: str, last: int) -> None:
        """Delete a run that was refused an append after its last event: the file has what another program has put in.

        It cannot go on, and in the file it would have no end.
        """
        self._spared.discard(run_id)
        live = self._live.get(run_id)
        if live is not None and not live.tail.ended and live.tail.last == last:
            self._do(lambda tables: tables.discard(run_id), lambda _: self._give_up(run_id)).add_done_callback(_nobody)

    def _give_up(self, run_id: str) -> None:
        """Let the followers of a run that cannot be written any more read what the file has of it."""
        live = self._live.get(run_id)
        if live is not None and not live.tail.ended:
            live.tail.wake()  # before it goes: who was live subscribes to the tail once more
            del self._live[run_id]

    def _damaged(self, error: sqlite3.Error) -> None:
        """A thread that reads has found damage."""
        if self._writer is not None:
            self._writer.damaged(error)

    def _do(
        self, do: Callable[[Tables], Any], then: Callable[[Any], None] | None = None, events: int = 1, size: int = 0
    ) -> asyncio.Future[Any]:
        """Have the writer do something; the future has what it returned once that is committed."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._appends.send()  # what was appended before is written before
        self._put(Job(do, then, future, events, size))
        return future

    def _put(self, job: Job) -> None:
        if self._writer is None:
            job.future.set_exception(LogUnavailable())
        else:
            self._writer.put(job)

    def _let_go(self, run_id: str) -> None:
        """Keep nothing in memory of a run that has ended and that nobody follows."""
        live = self._live.get(run_id)
        if live is not None and live.tail.ended and not live.tail.followed:
            del self._live[run_id]

    def _recover(self, db: sqlite3.Connection) -> Tables:
        """Return the tables, which have no open run but those that are to be offered. Called in the writer thread."""
        tables = Tables(db, self._limits, self._clock, self._spared, self._waiting)
        with tables.transaction():
            self._recovered = recover(tables)
        return tables


def _nobody(future: asyncio.Future[Any]) -> None:
    """Retrieve the error of a job that nobody waits for."""
    if not future.cancelled():
        future.exception()
