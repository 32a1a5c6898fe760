"""The past of a run, as its log tells it to a process that goes on with it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Struct

from twinwire.agents.talk import Said
from twinwire.log import EventLog
from twinwire.log.orphan import Orphan
from twinwire.log.saying import Saying
from twinwire.protocol.errors import LogLost, LogUnavailable
from twinwire.protocol.events import INPUT_TYPES, Record, StreamEvent, decode
from twinwire.protocol.fold import Fold
from twinwire.runs.checkpoints import Checkpoint, Unreadable
from twinwire.runs.heard import PAGE_EVENTS
from twinwire.runs.writer import MAX_RETRY_SECONDS, RETRY_SECONDS


class Recorded(Struct):
    """A question of a run: the data of its INPUT_REQUESTED and, once it is closed, those of its INPUT_ANSWERED.

    That came `at` this time. An agent that goes on asks the question `again` if it was open at the checkpoint, or was
    asked since.
    """

    asked: dict[str, Any]
    answered: dict[str, Any] | None = None
    at: str = ""
    again: bool = True


class Recollection:
    """The facts of a run that are in its events alone.

    `fold` is the state that they come to. `questions` are all that the log still has, by their ids, `said` the digest
    of what each message id stands for, `unread` the messages that the agent of this `checkpoint` has not read, and
    `voids` the events that do not count: those between each two numbers.
    """

    def __init__(self, checkpoint: Checkpoint, fold: Fold, folded: int) -> None:
        self.checkpoint = checkpoint
        self.fold = fold
        self.questions = {each["input_id"]: Recorded(each) for each in fold.questions}
        self.said: dict[str, bytes] = {}
        self.unread: list[Said] = []
        self.voids: list[tuple[int, int]] = []
        self._folded = folded  # the number of the last event that `fold` had come to before
        self._read = {message_id for message_id, _ in checkpoint.read}

    def take(self, record: Record) -> None:
        """Take in the next event."""
        event = decode(record.body)
        if record.seq > self._folded:
            self.fold.apply(event)
        if event.type == "RUN_RESUMED":
            if (after := event.data.get("void_after")) is not None:
                self.voids.append((after, record.seq))
        elif event.type in INPUT_TYPES:
            self._hear(event, record.seq)

    def _hear(self, event: StreamEvent, seq: int) -> None:
        data = event.data
        if event.type == "INPUT_REQUESTED":
            self.questions.setdefault(data["input_id"], Recorded(data))  # it may be told once more, as it was
            return
        if event.type == "INPUT_ANSWERED":
            if (question := self.questions.get(data["input_id"])) is not None:
                question.answered, question.at, question.again = data, event.timestamp, seq > self.checkpoint.after
        elif data["message_id"] not in self._read:
            self.unread.append(Said(data["content"], data["message_id"], data.get("by")))
        if (message_id := data.get("message_id")) is not None:
            words = {name: data.get(name) for name in ("content", "input_id", "answer")}
            self.said[message_id] = Saying(message_id=message_id, **words).digest


async def recollect(log: EventLog, orphan: Orphan, checkpoint: Checkpoint) -> Recollection:
    """Read what a run's log has of it, once, in turns with everybody else.

    Raise `Unreadable` for events that no run has written, `RunNotFound`, `CursorGone` and `LogUnavailable`.
    """
    run_id, seq = orphan.info.run_id, orphan.first - 1
    kept = await log.folded(run_id) if seq else None
    try:
        fold, folded = (Fold(), 0) if kept is None else (Fold.restored(kept.state), kept.seq)
        found = Recollection(checkpoint, fold, folded)
        while seq < orphan.last and (records := (await log.page(run_id, seq, PAGE_EVENTS)).records):
            for record in records:
                if record.seq <= orphan.last:
                    found.take(record)
            seq = records[-1].seq
            await asyncio.sleep(0)
    except (KeyError, TypeError, msgspec.DecodeError) as error:
        raise Unreadable(f"The log has an event that cannot be read: {error}.") from error
    return found


class RunPast:
    """See `agents.past.Past`. `voids` are the events that do not count, as of `Recollection`."""

    def __init__(self, log: EventLog, orphan: Orphan, checkpoint: Checkpoint, voids: list[tuple[int, int]]) -> None:
        self.epoch = orphan.epoch + 1
        self.state = checkpoint.told
        self.after = checkpoint.after
        self.trimmed = orphan.first > 1
        self._log = log
        self._run_id = orphan.info.run_id
        self._last = orphan.last
        self._voids = voids

    async def events(self, after: int = 0, *, void: bool = False) -> AsyncIterator[StreamEvent]:
        """See `Past`. While the log is away, wait for it."""
        delay = RETRY_SECONDS
        while after < self._last:
            try:
                records = (await self._log.page(self._run_id, after, PAGE_EVENTS)).records
            except LogLost:
                raise
            except LogUnavailable:
                await asyncio.sleep(random.uniform(0.5, 1.0) * delay)
                delay = min(2 * delay, MAX_RETRY_SECONDS)
                continue
            if not records:
                return
            delay = RETRY_SECONDS
            for record in records:
                after = record.seq
                if after > self._last:
                    return
                if void or self._counts(record):
                    yield decode(record.body)

    def _counts(self, record: Record) -> bool:
        return record.type in INPUT_TYPES or not any(first < record.seq < end for first, end in self._voids)
