"""Lists of runs in Redis, and the deletion of what lists have: one run, or all that is kept of a user.

A run is in the list of all runs and in its user's. Redis forgets a run that has ended by itself, but not its entries:
they go when somebody looks at them, and each worker looks at some now and then.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence

import msgspec

from twinwire.log.base import SCANNED, Listing, Position, RunInfo, Wanted, listing
from twinwire.log.redis.link import Link, lenient
from twinwire.log.redis.reader import MALFORMED, Reader, Stored, load
from twinwire.log.redis.scripts import DELETE, VACATE, Keys
from twinwire.protocol.errors import LogUnavailable, RunNotFound
from twinwire.protocol.events import dump, status_of

logger = logging.getLogger("twinwire.log")

TIDY_SECONDS = 5.0
SAMPLE = 100  # entries that a worker looks at in one go; as in Redis's own expiry, again while many of them are stale
STALE = 0.25
AT_ONCE = 100  # runs that are looked at, or deleted, with one command or pipeline
MINUTE_MS = 60_000

_info = msgspec.json.Decoder(RunInfo)


def place(at: Position) -> str:
    """Return a run's place as a sorted set has it, which orders entries of one score by their bytes."""
    return " ".join(at)


class Lists:
    """The lists of one namespace. Followers of what is deleted are told by the `reader` of this worker."""

    def __init__(self, link: Link, keys: Keys, reader: Reader) -> None:
        self._link = link
        self._keys = keys
        self._reader = reader

    async def listed(self, wanted: Wanted, limit: int, before: Position | None) -> Listing:
        """See `EventLog.listed`."""
        name = self._keys.runs if wanted.user_id is None else self._keys.runs_of(wanted.user_id)
        end = wanted.end(before)
        last = "+" if end is None else f"({place(end)}"
        first = "-" if wanted.created_after is None else f"[{wanted.created_after}"
        command = ("ZREVRANGEBYLEX", name, last, first, "LIMIT", 0, SCANNED)
        entries: list[bytes] = await lenient(self._link.call(*command)) or []
        page = Listing((), None)
        runs: list[tuple[RunInfo, str]] = []
        for start in range(0, len(entries), AT_ONCE):
            some = entries[start : start + AT_ONCE]
            runs += await self._look(some, wanted.user_id)
            more = start + len(some) < len(entries) or len(entries) == SCANNED
            page = listing(runs, wanted, limit, _place(some[-1])[0] if more else None)
            if len(page.run_ids) == limit:
                break
        return page

    async def _look(self, entries: Sequence[bytes], user_id: str | None) -> list[tuple[RunInfo, str]]:
        """Return the runs of these entries, each with its status, of those that there are."""
        names = [self._keys.run(_place(entry)[0][1]) for entry in entries]
        replies = await asyncio.gather(*(lenient(self._link.call("HMGET", name, "info", "outcome")) for name in names))
        runs: list[tuple[RunInfo, str]] = []
        stale: list[bytes] = []
        for entry, found in zip(entries, replies, strict=True):
            try:
                runs.append((_info.decode(found[0]), status_of(found[1] or b"")))
            except MALFORMED:
                stale += [entry] if found == [None, None] else []  # else it is another program's doing
        await self._strike(stale, user_id)
        return runs

    async def _strike(self, entries: Sequence[bytes], user_id: str | None) -> None:
        """Delete entries of runs that are gone: of a user's list, or of the list of all."""
        if not entries:
            return
        pairs: list[tuple[str, bytes]]
        if user_id is not None:
            pairs = [(self._keys.runs_of(user_id), entry) for entry in entries]
            pairs += [(self._keys.runs, entry + b" " + dump(user_id)) for entry in entries]
        else:
            pairs = [(self._keys.runs, entry) for entry in entries]
            pairs += [(f"{self._keys.runs}:{user}", place(at).encode()) for at, user in map(_place, entries)]
        await asyncio.gather(*(lenient(self._link.call("ZREM", *pair)) for pair in pairs))

    async def delete(self, stored: Stored) -> bool:
        """Delete a run, unless it goes on: then return False."""
        info, keys = stored.info, self._keys
        if not await self._delete((info.created, info.run_id), info.user_id, stored.key):
            return False
        await self._link.call(*VACATE(keys.busy((info.user_id, info.session_id)), run_id=info.run_id))
        return True

    async def _delete(self, at: Position, user_id: str | None, key: str) -> bool:
        keys, run_id = self._keys, at[1]
        names = [keys.run(run_id), keys.events(run_id), keys.inbox(run_id), keys.followers(run_id)]
        names += [keys.live, keys.waiting, keys.runs_of(user_id), keys.runs, *([key] if key else [])]
        status = await self._link.call(*DELETE(*names, run_id=run_id, place=place(at), user=dump(user_id)))
        if status == b"on":
            return False
        if (held := self._reader.held.get(run_id)) is not None:
            held.lose()
        return True

    async def delete_oldest(self, size: int) -> int:
        """Delete the oldest runs that have ended, until their events come to this size or all were looked at.

        Return the size of what is gone. Raises `LogUnavailable`.
        """
        freed = 0
        async for entries in self._entries(self._keys.runs):
            for entry in entries:
                if freed >= size:
                    return freed
                freed += await self._delete_ended(_place(entry)[0][1])
        return freed

    async def _delete_ended(self, run_id: str) -> int:
        """Delete a run if it has ended. Return the size of its events, but 0 if it is there yet."""
        try:
            stored = await load(self._link, self._keys, run_id, newest=False)
        except RunNotFound:
            return 0
        return max(stored.size, 1) if stored.ended and await self.delete(stored) else 0

    async def forget(self, user_id: str) -> None:
        """See `EventLog.forget`. The user's starts of the last minute still count, until it is over."""
        async for entries in self._entries(self._keys.runs_of(user_id)):
            await asyncio.gather(*(self._forget(_place(entry)[0], user_id) for entry in entries))
        keys, cursor = self._keys, b"0"
        begins = keys.sessions_of(user_id).encode()
        while True:
            cursor, found = await self._link.call("ZSCAN", keys.sessions, cursor, "COUNT", AT_ONCE)
            names = [name for name in found[::2] if name.startswith(begins)]
            if names:
                await self._link.call("DEL", *names)
                await self._link.call("ZREM", keys.sessions, *names)
            if cursor == b"0":
                break
        left = await self._link.call("PTTL", keys.starts(user_id))
        if left > MINUTE_MS or left == -1:
            await self._link.call("PEXPIRE", keys.starts(user_id), MINUTE_MS)

    async def _entries(self, name: str) -> AsyncIterator[Sequence[bytes]]:
        """Give all entries of a list."""
        after = "-"
        while True:
            command = ("ZRANGEBYLEX", name, after, "+", "LIMIT", 0, AT_ONCE)
            entries: list[bytes] = await lenient(self._link.call(*command)) or []
            if entries:
                yield entries
            if len(entries) < AT_ONCE:
                return
            after = f"({entries[-1].decode()}"

    async def _forget(self, at: Position, user_id: str) -> None:
        try:
            stored = await load(self._link, self._keys, at[1], newest=False)
        except RunNotFound:  # its retention is over, or it cannot be read
            await self._delete(at, user_id, "")
        else:
            if stored.ended and await self.delete(stored):
                await self._link.call("DEL", self._keys.session((user_id, stored.info.session_id)))

    async def tidy(self) -> None:
        """Delete entries of runs that are gone, for ever: at most a quarter of all is stale for long."""
        while True:
            await asyncio.sleep(TIDY_SECONDS * random.uniform(0.75, 1.25))
            try:
                while await self.tidy_some() > STALE * SAMPLE:
                    pass
            except LogUnavailable:
                pass  # the next time

    async def tidy_some(self) -> int:
        """Look at a sample of all entries. Return how many were stale. Raises `LogUnavailable`."""
        sample: list[bytes] = await lenient(self._link.call("ZRANDMEMBER", self._keys.runs, SAMPLE)) or []
        names = [self._keys.run(_place(entry)[0][1]) for entry in sample]
        there = await asyncio.gather(*(self._link.call("EXISTS", name) for name in names))
        stale = [entry for entry, exists in zip(sample, there, strict=True) if not exists]
        await self._strike(stale, None)
        return len(stale)


def _place(entry: bytes) -> tuple[Position, str]:
    """Return the place that an entry names, and the user as JSON, which the list of all runs has as well."""
    created, _, rest = entry.decode(errors="replace").partition(" ")
    run_id, _, user = rest.partition(" ")
    return (created, run_id), user
