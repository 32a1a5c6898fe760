"""The inboxes of runs in Redis: what is said to a run on any worker comes to its owner, and the outcome comes back.

An entry stays until its event is in the log, a cancel until the run has ended: if the owner dies, whoever claims the
run hears it. It may be heard twice, then: its `message_id` sees to it that it counts once, and a cancel is one however
often it is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from twinwire.log.base import Owner
from twinwire.log.redis.link import Link, WrongType
from twinwire.log.redis.reader import MALFORMED
from twinwire.log.redis.scripts import PUT, RELEASED, Keys
from twinwire.log.saying import Outcome, Saying
from twinwire.protocol.errors import LogUnavailable, TooManyMessages, TwinwireError, UnknownOutcome, refusal

logger = logging.getLogger("twinwire.log")

MOST = 256  # entries of one inbox
MOST_BYTES = 4 * 2**20  # and their bytes, which it may exceed by one entry
HEARD_AT_ONCE = 32
RETRY_SECONDS = 0.5
CANCEL = b'"cancel"'

Tell = Callable[[str, str, str, bytes], Awaitable[None]]
"""Send a worker a command: its operation, its run or number, and what comes with it."""

_saying = msgspec.json.Decoder(Saying)
_outcome = msgspec.json.Decoder(Outcome)


class Inboxes:
    """The inboxes of all runs, as one worker sees them; it `hear`s what is said to its own. `tell` reaches others.

    What is said is kept for `life` seconds, if the run does not end before.
    """

    def __init__(self, link: Link, keys: Keys, worker: str, owner: Owner, *, tell: Tell, life: float) -> None:
        self._link = link
        self._keys = keys
        self._worker = worker
        self._owner = owner
        self._tell = tell
        self._life_ms = round(life * 1000)
        self._replies: dict[str, asyncio.Future[Outcome]] = {}
        self._hearing: dict[str, asyncio.Task[None]] = {}
        self._more: set[str] = set()  # runs whose inbox is to be looked into once more

    async def put(self, run_id: str, saying: Saying) -> Outcome:
        """Put what is said into the run's inbox, wake its owner, and wait for the outcome.

        Raises `LogUnavailable` if it may or may not be there, `TooManyMessages` if there is no room, and the owner's
        refusal.
        """
        number = secrets.token_hex(8)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            if not await self._put(run_id, msgspec.json.encode(saying), self._worker, number):
                return Outcome(status="already_finished", message_id=saying.message_id)
            outcome: Outcome = await reply
        finally:
            del self._replies[number]
        if outcome.refusal is not None:
            raise refusal(outcome.refusal)
        return outcome

    async def cancel(self, run_id: str) -> None:
        """Put a cancel into the run's inbox and wake its owner, unless the run has ended. Raises `LogUnavailable`."""
        await self._put(run_id, CANCEL)

    async def _put(self, run_id: str, said: bytes, asker: str = "", number: str = "") -> bool:
        """Return whether the run goes on: its owner is woken, if it has one now."""
        names = self._keys.run(run_id), self._keys.inbox(run_id)
        bounds: dict[str, Any] = {"most": MOST, "most_bytes": MOST_BYTES, "life_ms": self._life_ms}
        status, *owner = await self._link.call(*PUT(*names, asker=asker, id=number, said=said, **bounds))
        if status == b"full":
            raise TooManyMessages
        if status != b"ok":
            return False
        if (name := owner[0].decode()) != RELEASED:
            await self._tell(name, "inbox", run_id, b"")
        return True

    def told(self, number: str, outcome: bytes) -> None:
        """An owner has said what became of something."""
        reply = self._replies.get(number)
        if reply is not None and not reply.done():
            with contextlib.suppress(*MALFORMED):  # another program's
                reply.set_result(_outcome.decode(outcome))

    def look(self, run_id: str) -> None:
        """Something is in the inbox of a run of this worker's, or may be."""
        if run_id in self._hearing:
            self._more.add(run_id)
        else:
            self._hearing[run_id] = asyncio.create_task(self._hear(run_id))

    async def _hear(self, run_id: str) -> None:
        """Hear all that is in the inbox, in order; if Redis is away, again while the run goes on here."""
        try:
            while True:
                self._more.discard(run_id)
                try:
                    await self._hear_all(run_id)
                    done = True
                except WrongType:
                    done = True  # the next who puts something there makes it an inbox
                except LogUnavailable:
                    await asyncio.sleep(RETRY_SECONDS)
                    done = not self._owner.owns(run_id)
                if done and run_id not in self._more:
                    break
        finally:
            self._more.discard(run_id)
            del self._hearing[run_id]  # with no await since the last look at `_more`

    async def _hear_all(self, run_id: str) -> None:
        inbox, after = self._keys.inbox(run_id), b"-"
        while rows := await self._link.call("XRANGE", inbox, after, "+", "COUNT", HEARD_AT_ONCE):
            for entry, fields in rows:
                said = dict(zip(fields[::2], fields[1::2], strict=True))
                if said.get(b"said") == CANCEL:
                    self._owner.cancel_here(run_id)  # it stays there until the run has ended
                elif not await self._hear_one(run_id, said):
                    return
                else:
                    await self._link.call("XDEL", inbox, entry)
            after = b"(" + rows[-1][0]

    async def _hear_one(self, run_id: str, fields: dict[bytes, bytes]) -> bool:
        """Hear an entry. Return False, and leave it for whoever has the run, if the run goes on but not here."""
        try:
            saying = _saying.decode(fields[b"said"])
            asker, number = fields[b"asker"].decode(), fields[b"id"].decode()
        except (KeyError, *MALFORMED):
            logger.warning("Redis holds something in a run's inbox that another program has written. It is removed.")
            return True
        try:
            outcome = await self._owner.hear(run_id, saying)
        except UnknownOutcome:
            return False  # this worker has lost the run; whoever has it now can tell
        except TwinwireError as error:
            outcome = Outcome(refusal=error.payload())
        except Exception:
            logger.exception("Something that was said to the run %s could not be heard.", run_id)
            return True
        if outcome is None:
            if await self._link.call("HGET", self._keys.run(run_id), "ended") == b"0":
                return False
            outcome = Outcome(status="already_finished", message_id=saying.message_id)
        await self._tell(asker, "told", number, msgspec.json.encode(outcome))
        return True

    async def close(self) -> None:
        """Hear no more."""
        tasks = list(self._hearing.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
