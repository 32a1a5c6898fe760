"""The end of a run whose process is gone: what a log that outlives it writes in its place."""

from __future__ import annotations

from twinwire.log.base import RunInfo
from twinwire.protocol.events import Record, StreamEvent, StreamEventType, encode

MESSAGE = "The server stopped before the run ended."


def interrupted(run: RunInfo, last: int) -> list[Record]:
    """Return the records that end a run after event number `last` with an ERROR of type `interrupted`.

    A run that had no event yet gets its AGENT_START first, without the input, which is nowhere kept.
    """
    events = []
    if last == 0:
        start = {"input": None, "config": {"agent": run.agent}, "max_steps": None}
        events.append(StreamEvent(StreamEventType.AGENT_START, start))
    data = {"error_type": "interrupted", "message": MESSAGE, "error": MESSAGE, "reason": "shutdown"}
    events.append(StreamEvent(StreamEventType.ERROR, data, metadata={"events": last + len(events) + 1}))
    return [encode(event, run.run_id, seq) for seq, event in enumerate(events, last + 1)]
