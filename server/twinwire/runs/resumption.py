"""The begin of a run in a process that goes on with it, and the events by which it claims the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from twinwire.log import EventLog, RunInfo
from twinwire.log.orphan import Orphan
from twinwire.protocol.events import Record, StreamEvent, StreamEventType, encode
from twinwire.runs.checkpoints import Beginning, Checkpoint
from twinwire.runs.past import Recollection, RunPast, recollect


class Resumption(Struct, frozen=True):
    """The facts with which a `Run` begins in a process that goes on with it, once it has claimed it with `records`.

    `last` is the number of the last of these, and `size` the bytes of all events of the run.
    """

    found: Recollection
    past: RunPast
    records: Sequence[Record]
    last: int
    size: int

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest checkpoint of the run."""
        return self.found.checkpoint


async def resumption(log: EventLog, orphan: Orphan, begun: Beginning, checkpoint: Checkpoint) -> Resumption:
    """Return how to go on with an orphan that has begun so. Raises as `recollect`."""
    found = await recollect(log, orphan, checkpoint)
    records: list[Record] = []
    last = orphan.last
    if last == 0:
        records.append(encode(agent_start(orphan.info, begun.spec.message), orphan.info.run_id, last := 1))
    void_after = checkpoint.void_after(last)
    data: dict[str, Any] = {"epoch": orphan.epoch + 1, "step": found.fold.step, "void_after": void_after}
    if void_after is not None:
        data |= checkpoint.kept
        found.voids.append((void_after, last + 1))
    resumed = StreamEvent(StreamEventType.RUN_RESUMED, data)
    found.fold.apply(resumed)
    records.append(encode(resumed, orphan.info.run_id, last + 1))
    size = max(orphan.size, checkpoint.size) + sum(len(record.body) for record in records)
    return Resumption(found, RunPast(log, orphan, checkpoint, found.voids), records, last + 1, size)


def agent_start(info: RunInfo, message: str) -> StreamEvent:
    """Return the AGENT_START of a run whose agent has told none."""
    start = {"input": message, "config": {"agent": info.agent}, "max_steps": None}
    return StreamEvent(StreamEventType.AGENT_START, start)
