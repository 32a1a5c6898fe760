"""The end of a run whose process is gone: what a log that outlives it writes in its place."""

from __future__ import annotations

from twinwire.events import Record, StreamEvent, StreamEventType, encode

MESSAGE = "the server stopped before the run had ended"


def interrupted(run_id: str, last: int) -> Record:
    """The terminal event after event number `last`: an ERROR of type `interrupted`, shaped as a run's own."""
    data = {"error_type": "interrupted", "message": MESSAGE, "error": MESSAGE}
    return encode(StreamEvent(StreamEventType.ERROR, data, metadata={"events": last + 1}), run_id, last + 1)
