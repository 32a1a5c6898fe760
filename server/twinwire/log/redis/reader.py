"""The newest events of the runs that are written or followed on this worker, and the one reader of them.

A run written here grows by its acknowledged appends. All others are read over one connection, by one blocking XREAD,
together with the commands to this worker, everybody's log-outs, and word of runs that were released.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec
from msgspec import Struct, field

from twinwire.log.base import Cursor, HearLogOut, Page, RunInfo, Unsubscribe
from twinwire.log.orphan import Orphan
from twinwire.log.redis.link import COMMAND_SECONDS, Address, Link, WrongType
from twinwire.log.redis.scripts import OWNED, Keys
from twinwire.log.tail import Tail
from twinwire.protocol.errors import LogUnavailable, RunNotFound
from twinwire.protocol.events import Record, restored

logger = logging.getLogger("twinwire.log")

HELD_EVENTS = 1024
HELD_BYTES = 2**20
READ_EVENTS = 128  # of a run in one reply
BLOCK_SECONDS = 3.0  # a connection that is dead without saying so is noticed a little later
COMMANDS_KEPT = 1000
BACKOFF_SECONDS = 0.1
GATHER_SECONDS = 0.001  # between reads: many runs, each of which would wake the reader, come in one reply

MALFORMED = (ValueError, TypeError, IndexError, AttributeError, msgspec.DecodeError)
"""Raised by reading what another program has written, or what was lost in part."""

_FIELDS = ("info", "first", "last", "bytes", "ended", "key", "owner")
_info = msgspec.json.Decoder(RunInfo)


class Stored(Struct, frozen=True):
    """A run as Redis has it, and the worker that has it now; `terminal` is its terminal event, if that was read."""

    info: RunInfo
    first: int
    last: int
    size: int
    key: str
    ended: bool
    owner: str
    terminal: Record | None = None


def record(row: Any) -> Record:
    """A stream's entry: its id is `<number>-0`, its fields type, body, start and stop, in this order."""
    entry_id, (_, name, _, body, _, start, _, stop) = row
    return restored(int(entry_id.removesuffix(b"-0")), name.decode(), body, int(start), int(stop))


def fields(records: Sequence[Record]) -> Iterable[Any]:
    """Return the arguments of a script that appends these records, as `record` reads them."""
    return chain.from_iterable((new.type, new.body, new.start, new.stop) for new in records)


def contiguous(records: list[Record]) -> list[Record]:
    """Return the records up to the first hole, in whichever direction they are numbered."""
    for index in range(1, len(records)):
        if abs(records[index].seq - records[index - 1].seq) != 1:
            return records[:index]
    return records


async def owned(link: Link, keys: Keys, run_id: str, user_id: str, fields: Sequence[str], *, newest: bool) -> Any:
    """Return these fields of a run of this user, and its newest event if wanted. Raises `RunNotFound`."""
    names = keys.run(run_id), keys.events(run_id)
    found = await link.call(*OWNED(*names, user_id=user_id, with_newest=int(newest), rest=fields))
    if found is None:
        raise RunNotFound
    return found


async def load(link: Link, keys: Keys, run_id: str, user_id: str | None = None, *, newest: bool = True) -> Stored:
    """Return what Redis has of a run; with `user_id`, of a run of this user. Raises `RunNotFound`, `LogUnavailable`.

    A run that has lost a part without which it cannot be read, such as its terminal event, is one that is not there.
    The events are not looked at unless the `newest` is wanted: it may be a large result.
    """
    if user_id is None:
        replies = [link.call("HMGET", keys.run(run_id), *_FIELDS)]
        if newest:
            replies.append(link.call("XREVRANGE", keys.events(run_id), "+", "-", "COUNT", 1))
        try:
            found = await asyncio.gather(*replies)
        except WrongType:
            raise RunNotFound from None
    else:
        found = await owned(link, keys, run_id, user_id, _FIELDS, newest=newest)
    info, first, last, size, ended, key, owner = found[0]
    try:
        numbers = int(first), int(last), int(size)
        stored = Stored(_info.decode(info), *numbers, key.decode(), ended == b"1", owner.decode())
        if not (newest and stored.ended):
            return stored
        terminal = record(found[1][0])
    except MALFORMED:
        raise RunNotFound from None
    if not terminal.last or terminal.seq != stored.last:
        raise RunNotFound
    return msgspec.structs.replace(stored, terminal=terminal)


class Held(Struct, eq=False):
    """The newest events of a run. `own` if it is written here; `current` if all that is written comes here."""

    name: bytes  # of its stream
    tail: Tail = field(default_factory=Tail)
    first: int = 1
    own: bool = False
    key: str = ""  # the idempotency key's, of an own run
    retention: float | None = None  # of an own run's own
    current: bool = False
    gone: bool = False
    rewritten: int | None = None  # the number of the end, if followers have seen another event under it
    remote: dict[str, int] = field(default_factory=dict)  # the lowest cursor on each other worker, of an own run
    asks: bool = False  # while these are asked for
    shown: int | None = None  # the oldest `last` that a follower may have seen while it was not current

    @property
    def awaited(self) -> bool:
        """Return whether what comes next is to be read from its stream."""
        return self.current and not self.own and not self.tail.ended

    def page(self, after: int, limit: int) -> Page | None:
        """See `EventLog`. Return None if it is not all here."""
        if not self.current or not max(self.tail.first, self.first) - 1 <= after <= self.tail.last:
            return None
        page = self.tail.page(after, limit)
        return Page(page.records, self.first, page.last, page.ended)

    def extend(self, records: Sequence[Record]) -> None:
        """Add what was appended; some of it may be here already. After a gap the tail begins anew."""
        last = self.tail.last
        if records[-1].seq - records[0].seq >= len(records):  # some in the middle are gone
            records = contiguous([*reversed(records)])[::-1]
        if records[0].seq <= last:
            records = [new for new in records if new.seq > last]
        elif records[0].seq > last + 1:
            self.first = records[0].seq
            self.tail.restart(records[0].seq)
        if records:
            self.tail.append(self.tail.last, records)
            self.tail.trim(self.tail.excess(HELD_EVENTS, HELD_BYTES))

    def adopt(self, after: int, records: Sequence[Record]) -> None:
        """Be written here from now on. These records were appended after number `after`; some may have come already."""
        if not (self.current and after <= self.tail.last <= after + len(records)):
            self.tail.restart(after + 1)
        self.own = self.current = True
        self.gone = False
        self.remote = {}
        self.rewritten = self.shown = None
        self.extend(records)

    def resume(self, stored: Stored) -> None:
        """Go on from what is here, if that still is part of the log, else from its end. Wake whoever missed events."""
        self.first = stored.first
        last = self.tail.last
        if stored.terminal is not None and 0 < last == stored.last and not self.tail.ended:
            self.rewritten = last
        if last == 0 or self.rewritten or not stored.first - 1 <= last <= stored.last:
            if stored.terminal is None:
                self.tail.restart(stored.last + 1)
            else:
                self.tail.restart(stored.last, [stored.terminal])
        self.current = True
        shown, self.shown = self.shown, None
        if self.rewritten or (shown is not None and shown != stored.last):
            self.tail.wake()

    def lose(self) -> None:
        """Hold nothing of a run that is gone. Its followers look again, and find that out."""
        self.gone = True
        self.current = False
        self.tail.wake()

    def interrupt(self) -> None:
        """Note that events may be missed from now on, until `resume`."""
        if self.awaited:
            self.current = False
            self.shown = self.tail.last


class Reader:
    """All `Held` of this worker.

    `obey(operation, run_id, outcome)` is called with each command that others send it, `heard` with each log-out.
    """

    def __init__(
        self,
        address: Address,
        link: Link,
        keys: Keys,
        worker: str,
        *,
        obey: Callable[[str, str, bytes], None],
        heard: HearLogOut,
    ) -> None:
        self.held: dict[str, Held] = {}
        self._link = link
        self._blocking = Link(address, timeout=BLOCK_SECONDS + COMMAND_SECONDS, patient=False)
        self._keys = keys
        self._commands = keys.commands(worker)
        self._obey = obey
        self._heard = heard
        self._cursors = {name.encode(): b"0-0" for name in (self._commands, keys.log_outs, keys.released)}
        self._missed = True  # whether there may be log-outs that were not read
        self._waits = False
        self._poking: asyncio.Task[None] | None = None

    def subscribe(self, run_id: str, wake: Callable[[], None], cursor: Cursor | None = None) -> Unsubscribe:
        """See `EventLog`. A run that nobody here has followed is read from now on."""
        held = self.held.get(run_id)
        if held is None:
            held = self.held[run_id] = Held(self._keys.events(run_id).encode())
            self.look()
        elif held.gone:  # it may have been restored
            held.gone = False
            self.look()
        leave = held.tail.subscribe(wake, cursor)

        def unsubscribe() -> None:
            leave()
            self.release(run_id, held)

        return unsubscribe

    def adopt(self, orphan: Orphan, first: int, key: str, records: Sequence[Record]) -> None:
        """Hold a run that this worker has claimed with these records; the followers here get them."""
        run_id = orphan.info.run_id
        held = self.held.get(run_id)
        if held is None:
            held = self.held[run_id] = Held(self._keys.events(run_id).encode())
        held.key, held.retention = key, orphan.info.retention
        held.first = first
        held.adopt(orphan.last, records)

    def release(self, run_id: str, held: Held) -> None:
        """Forget a run that nobody here writes or follows."""
        if not held.own and not held.tail.followed and self.held.get(run_id) is held:
            del self.held[run_id]

    def disown(self, run_id: str) -> None:
        """A run is no longer written here; its followers here get the rest as everywhere else."""
        held = self.held.get(run_id)
        if held is not None and held.own:
            held.own = False
            held.interrupt()
            self.release(run_id, held)
            self.look()

    async def run(self) -> None:
        """Read for ever. After the connection was lost, go on from the last event."""
        while True:
            try:
                await self.recall()
                await self._resume()
                await self._read()
                await asyncio.sleep(GATHER_SECONDS)
            except WrongType:  # of one key among many: the next check tells which, and then it is not read
                await asyncio.sleep(BACKOFF_SECONDS)
            except LogUnavailable:
                self._missed = True
                for held in self.held.values():
                    held.interrupt()
                await asyncio.sleep(BACKOFF_SECONDS)

    async def recall(self) -> None:
        """Hear of the log-outs that count, if some may have been missed. Raises `LogUnavailable`."""
        if self._missed:
            kept = await self._link.call("ZRANGE", self._keys.logged_out, 0, -1, "WITHSCORES")
            self._missed = False
            for user_id, when in zip(kept[::2], kept[1::2], strict=True):
                self._heard(user_id.decode(), float(when))

    async def close(self) -> None:
        """Disconnect."""
        await self._blocking.close(0)

    async def _resume(self) -> None:
        """See what Redis has of each run that is not current."""
        while waiting := [
            (run_id, held) for run_id, held in self.held.items() if not (held.current or held.own or held.gone)
        ]:
            found = await asyncio.gather(
                *(load(self._link, self._keys, run_id) for run_id, _ in waiting), return_exceptions=True
            )
            for (_, held), stored in zip(waiting, found, strict=True):
                if held.own:
                    continue  # this worker has claimed the run meanwhile
                if isinstance(stored, Stored):
                    held.resume(stored)
                elif isinstance(stored, RunNotFound):
                    held.lose()
                else:
                    raise stored

    async def _read(self) -> None:
        runs = {held.name: held for held in self.held.values() if held.awaited}
        cursors = [b"%d-0" % held.tail.last for held in runs.values()]
        streams = ("STREAMS", *self._cursors, *runs, *self._cursors.values(), *cursors)
        self._waits = True
        try:
            reply = await self._blocking.call(
                "XREAD", "COUNT", READ_EVENTS, "BLOCK", round(BLOCK_SECONDS * 1000), *streams
            )
        finally:
            self._waits = False
        for name, rows in reply or ():
            if (held_run := runs.get(name)) is not None:
                if held_run.awaited:
                    self._take(held_run, rows)
            else:
                self._cursors[name] = rows[-1][0]
                for row in rows:
                    self._hear(row)

    def _take(self, held: Held, rows: Sequence[Any]) -> None:
        """Add a run's events; one of them that is none ends what can be known of the run."""
        try:
            records = [record(row) for row in rows]
        except MALFORMED:
            logger.warning("Redis holds something in a run's stream that is no event. The run cannot be read.")
            held.lose()
        else:
            held.extend(records)

    def _hear(self, row: Any) -> None:
        """Obey what is said to this worker, or hear who logged out."""
        try:
            _, (kind, first, _, second, *more) = row
            said, what = first.decode(), second.decode()
            when = float(what) if kind == b"user" else 0.0
        except MALFORMED:
            return  # another program's
        if kind == b"user":
            self._heard(said, when)
        else:
            self._obey(said, what, more[1] if more else b"")

    async def reheard(self) -> None:
        """Read a stream of commands or log-outs from its beginning if its newest entry is older than the last one read.

        Then the stream was lost, and the clock that its ids come from was set back. Raises `LogUnavailable`.
        """
        read = dict(self._cursors)
        newest = await asyncio.gather(*(self._link.call("XREVRANGE", name, "+", "-", "COUNT", 1) for name in read))
        for (name, cursor), rows in zip(read.items(), newest, strict=True):
            if cursor != b"0-0" and (not rows or _order(rows[0][0]) < _order(cursor)):
                self._cursors[name] = b"0-0"
                self._missed = True

    def look(self) -> None:
        """Have the reader look at once at what has changed, instead of when something happens."""
        if self._waits and self._poking is None:
            self._poking = asyncio.create_task(self._say_nothing())

    async def _say_nothing(self) -> None:
        try:
            await self._link.call(*say(self._commands, "look", ""))
        except LogUnavailable:
            pass  # the reader will see for itself
        finally:
            self._poking = None


def _order(entry_id: bytes) -> tuple[int, int]:
    """Return what a stream's ids are ordered by."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)


def say(commands: str, operation: str, run_id: str, outcome: bytes = b"") -> tuple[Any, ...]:
    """Return the Redis command that tells a worker something about a run."""
    more = ("outcome", outcome) if outcome else ()
    return ("XADD", commands, "MAXLEN", "~", COMMANDS_KEPT, "*", "op", operation, "run", run_id, *more)
