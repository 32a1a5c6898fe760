"""The inboxes of runs in Redis: what is said to a run on any worker comes to its owner, and the outcome comes back.

An entry stays until its event is in the log. It may be heard twice, then: its `message_id` sees to it that it counts
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from twinwire.log.base import Owner, RunInfo
from twinwire.log.redis.link import Link, WrongType
from twinwire.log.redis.reader import MALFORMED
from twinwire.log.redis.scripts import PUT, Keys
from twinwire.log.saying import Outcome, Saying
from twinwire.protocol.errors import LogUnavailable, TooManyMessages, TwinwireError, UnknownOutcome, refusal

logger = logging.getLogger("twinwire.log")

MOST = 256  # entries of one inbox
MOST_BYTES = 4 * 2**20  # and their bytes, which it may exceed by one entry
LIFE_MS = 3_600_000
HEARD_AT_ONCE = 32

Tell = Callable[[str, str, str, bytes], Awaitable[None]]
"""Send a worker a command: its operation, its run or number, and what comes with it."""

_saying = msgspec.json.Decoder(Saying)
_outcome = msgspec.json.Decoder(Outcome)


class Inboxes:
    """The inboxes of all runs, as one worker sees them; it `hear`s what is said to its own. `tell` reaches others."""

    def __init__(self, link: Link, keys: Keys, worker: str, owner: Owner, tell: Tell) -> None:
        self._link = link
        self._keys = keys
        self._worker = worker
        self._owner = owner
        self._tell = tell
        self._replies: dict[str, asyncio.Future[Outcome]] = {}
        self._hearing: dict[str, asyncio.Task[None]] = {}
        self._more: set[str] = set()  # runs whose inbox is to be looked into once more

    async def put(self, run: RunInfo, saying: Saying) -> Outcome:
        """Put what is said into the run's inbox, wake its owner, and wait for the outcome.

        Raises `LogUnavailable` if it may or may not be there, `TooManyMessages` if there is no room, and the owner's
        refusal.
        """
        number = secrets.token_hex(8)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            names = self._keys.run(run.run_id), self._keys.inbox(run.run_id)
            said = msgspec.json.encode(saying)
            bounds: dict[str, Any] = {"most": MOST, "most_bytes": MOST_BYTES, "life_ms": LIFE_MS}
            status = await self._link.call(*PUT(*names, asker=self._worker, id=number, said=said, **bounds))
            if status == b"full":
                raise TooManyMessages
            if status != b"ok":
                return Outcome(status="already_finished", message_id=saying.message_id)
            await self._tell(run.owner, "inbox", run.run_id, b"")
            outcome: Outcome = await reply
        finally:
            del self._replies[number]
        if outcome.refusal is not None:
            raise refusal(outcome.refusal)
        return outcome

    def told(self, number: str, outcome: bytes) -> None:
        """An owner has said what became of something."""
        reply = self._replies.get(number)
        if reply is not None and not reply.done():
            with contextlib.suppress(*MALFORMED):  # another program's
                reply.set_result(_outcome.decode(outcome))

    def look(self, run_id: str) -> None:
        """Something is in the inbox of a run of this worker's."""
        if run_id in self._hearing:
            self._more.add(run_id)
        else:
            self._hearing[run_id] = asyncio.create_task(self._hear(run_id))

    async def _hear(self, run_id: str) -> None:
        """Hear all that is in the inbox, in order."""
        inbox = self._keys.inbox(run_id)
        try:
            while True:
                self._more.discard(run_id)
                while rows := await self._link.call("XRANGE", inbox, "-", "+", "COUNT", HEARD_AT_ONCE):
                    for entry, fields in rows:
                        await self._hear_one(run_id, dict(zip(fields[::2], fields[1::2], strict=True)))
                        await self._link.call("XDEL", inbox, entry)
                if run_id not in self._more:
                    break
        except (LogUnavailable, WrongType):
            self._more.discard(run_id)  # what is left is looked at with the next
        finally:
            del self._hearing[run_id]  # with no await since the last look at `_more`

    async def _hear_one(self, run_id: str, fields: dict[bytes, bytes]) -> None:
        try:
            saying = _saying.decode(fields[b"said"])
            asker, number = fields[b"asker"].decode(), fields[b"id"].decode()
        except (KeyError, *MALFORMED):
            logger.warning("Redis holds something in a run's inbox that another program has written. It is removed.")
            return
        try:
            outcome = await self._owner.hear(run_id, saying)
        except UnknownOutcome:
            return  # nor does the asker know
        except TwinwireError as error:
            outcome = Outcome(refusal=error.payload())
        except Exception:
            logger.exception("Something that was said to the run %s could not be heard.", run_id)
            return
        outcome = outcome or Outcome(status="already_finished", message_id=saying.message_id)
        await self._tell(asker, "told", number, msgspec.json.encode(outcome))

    async def close(self) -> None:
        """Hear no more."""
        tasks = list(self._hearing.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
