"""Control in Redis: conversations, the run that goes on in each, cancel commands and presence, for all workers."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Collection, Mapping

import msgspec

from twinwire.log.base import HearLogOut, Limits, RunInfo, SessionKey
from twinwire.log.redis.inbox import Inboxes
from twinwire.log.redis.link import Link, lenient
from twinwire.log.redis.reader import COMMANDS_KEPT, MALFORMED, say
from twinwire.log.redis.scripts import FOLLOW, NOTE, OCCUPY, RECALL, RELEASED, REMEMBER, VACATE, Keys
from twinwire.log.saying import Noted, Outcome, Saying
from twinwire.log.sessions import messages, turn_size
from twinwire.protocol.errors import LogUnavailable
from twinwire.protocol.events import dump

logger = logging.getLogger("twinwire.log")

RETRY_SECONDS = 0.5

_noted = msgspec.json.Decoder(Noted)


class RedisControl:
    """See `Control`. `lease` is in seconds; presence that is not renewed for three of them is forgotten."""

    worker = ""
    _link: Link
    _inboxes: Inboxes

    def __init__(self, limits: Limits, keys: Keys, lease: float) -> None:
        self.heard: HearLogOut = lambda _user_id, _when: None
        self._limits = limits
        self._keys = keys
        self._lease_ms = round(lease * 1000)
        self._following: set[str] = set()
        self._changed: dict[str, str] = {}  # presence that Redis has yet to hear of: run, what its owner is told
        self._notes: dict[str, tuple[str | None, bytes]] = {}  # what runs ask, that Redis has yet to hear of
        self._news = asyncio.Event()

    async def history(self, session: SessionKey) -> list[dict[str, str]]:
        idle = round(self._limits.session_idle * 1000)
        turns = await self._link.call(*RECALL(self._keys.session(session), self._keys.sessions, idle_ms=idle))
        try:
            return messages([json.loads(turn.partition(b" ")[2])[1:] for turn in turns])
        except MALFORMED:
            logger.warning("Redis holds a conversation that another program has written. It is not used.")
            return []

    async def remember(self, session: SessionKey, question: str, answer: str) -> None:
        # The token tells the same turn, sent again because its reply was lost, from a question asked twice.
        turn = b"%d %b" % (turn_size(question, answer), dump([secrets.token_hex(8), question, answer]))
        limits = self._limits
        command = REMEMBER(
            self._keys.session(session),
            self._keys.sessions,
            turn=turn,
            max_bytes=limits.session_bytes,
            max_sessions=limits.max_sessions,
            idle_ms=round(limits.session_idle * 1000),
        )
        if gone := await self._link.call(*command):
            await self._link.call("DEL", *gone)
            await self._link.call("ZREM", self._keys.sessions, *gone)  # last: what has no name here, nobody finds

    async def occupy(self, session: SessionKey, run_id: str) -> str | None:
        holder: str = (await self._link.call(*OCCUPY(self._keys.busy(session), run_id=run_id))).decode()
        return None if holder == run_id else holder

    async def holder(self, session: SessionKey) -> str | None:
        holder: bytes | None = await lenient(self._link.call("GET", self._keys.busy(session)))
        return None if holder is None else holder.decode()

    async def vacate(self, session: SessionKey, run_id: str) -> None:
        await self._link.call(*VACATE(self._keys.busy(session), run_id=run_id))

    async def cancel(self, run: RunInfo) -> None:
        await self._inboxes.cancel(run.run_id)

    async def tell(self, run: RunInfo, saying: Saying) -> Outcome:
        return await self._inboxes.put(run.run_id, saying)

    def note(self, run: RunInfo, noted: Noted) -> None:
        """See `Control`. Redis hears of it a moment later."""
        told = b"%d" % noted.waiting + dump(msgspec.to_builtins(noted)) if noted.questions else b""
        self._notes[run.run_id] = run.user_id, told
        self._news.set()

    async def noted(self, run_id: str) -> Noted:
        noted = await lenient(self._link.call("HGET", self._keys.waiting, run_id))
        try:
            return Noted() if noted is None else _noted.decode(noted[1:])
        except MALFORMED:
            return Noted()  # another program has written it

    async def _keep_notes(self, notes: Mapping[str, tuple[str | None, bytes]]) -> None:
        keys, life_ms = self._keys, round(self._limits.longest * 1000)
        await asyncio.gather(
            *(
                self._link.call(
                    *NOTE(
                        *(keys.live, keys.waiting, keys.starts(user_id)),
                        run_id=run_id,
                        owner=self.worker,
                        noted=noted,
                        life_ms=life_ms,
                    )
                )
                for run_id, (user_id, noted) in notes.items()
            )
        )

    def follow(self, run_id: str) -> None:
        """See `Control`. Redis hears of it a moment later."""
        self._following.add(run_id)
        self._tell(run_id, "")

    def unfollow(self, run_id: str, *, left: bool = False) -> None:
        self._following.discard(run_id)
        self._tell(run_id, "left" if left else "unfollowed")

    async def followed(self, run_id: str) -> bool:
        names = await lenient(self._link.call("HKEYS", self._keys.followers(run_id)))
        workers = [name.decode() for name in names or ()]
        others = [self._keys.worker(name) for name in workers if name != self.worker]
        return bool(others) and await self._link.call("EXISTS", *others) > 0

    async def log_out(self, user_id: str, when: float, seconds: float) -> None:
        """See `Control`. It is stored before it is sent: a worker that misses it reads what is stored."""
        stored, sent, life = self._keys.logged_out, self._keys.log_outs, round(seconds * 1000)
        await asyncio.gather(
            self._link.call("ZADD", stored, "GT", when, user_id),
            self._link.call("ZREMRANGEBYSCORE", stored, "-inf", when - seconds),
            self._link.call("PEXPIRE", stored, life),
            self._link.call("XADD", sent, "MAXLEN", "~", COMMANDS_KEPT, "*", "user", user_id, "when", when),
            self._link.call("PEXPIRE", sent, life),
        )
        self.heard(user_id, when)

    async def _say(self, worker: str, operation: str, run_id: str, outcome: bytes = b"") -> None:
        """Send a command to a worker. If it lives no more, the command is soon forgotten."""
        commands = self._keys.commands(worker)
        await asyncio.gather(
            self._link.call(*say(commands, operation, run_id, outcome)),
            self._link.call("PEXPIRE", commands, 3 * self._lease_ms),
        )

    def _tell(self, run_id: str, operation: str) -> None:
        """Tell Redis of the run's followers here, and its owner this, if there are none."""
        self._changed[run_id] = operation
        self._news.set()

    async def _announce(self, run_ids: Collection[str]) -> None:
        """Tell Redis which of these runs have followers here, and how far the slowest has read."""
        life_ms = 3 * self._lease_ms
        commands = [
            FOLLOW(self._keys.followers(run_id), worker=self.worker, cursor=self._cursor(run_id), life_ms=life_ms)
            for run_id in self._following.intersection(run_ids)
        ]
        await asyncio.gather(*(self._link.call(*command) for command in commands))

    def _cursor(self, run_id: str) -> int | str:  # noqa: ARG002 - a log that has followers knows
        """Return the lowest cursor of the run's followers here, or an empty text."""
        return ""

    async def _retract(self, changed: Mapping[str, str]) -> None:
        """Tell Redis, then the runs' owners, which of these runs have no followers here."""

        async def retract(run_id: str, operation: str) -> None:
            await lenient(self._link.call("HDEL", self._keys.followers(run_id), self.worker))
            owner = await lenient(self._link.call("HGET", self._keys.run(run_id), "owner"))
            if owner not in {None, RELEASED.encode()}:
                await self._say(owner.decode(), operation, run_id)

        await asyncio.gather(*(retract(*change) for change in changed.items() if change[0] not in self._following))

    async def _keep_presence(self) -> None:
        """Pass each change of this worker's presence and runs on, and again if Redis could not be reached."""
        while True:
            await self._news.wait()
            self._news.clear()
            changed, self._changed = self._changed, {}
            notes, self._notes = self._notes, {}
            try:
                await asyncio.gather(self._announce(changed), self._retract(changed), self._keep_notes(notes))
            except LogUnavailable:
                self._changed, self._notes = changed | self._changed, notes | self._notes
                await asyncio.sleep(RETRY_SECONDS)
                self._news.set()
