"""Twinwire's own format: an event is one SSE block, or one WebSocket message that is the record's body."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from twinwire.events import Record


def sse_block(record: Record) -> bytes:
    """`event`, `data` (the event's data alone), `id` and a blank line (WHATWG HTML 9.2.5)."""
    body, stop = record.body, record.stop
    event_id = body[body.rindex(b'"', 0, -2) + 1 : -2]
    return b"event: %b\ndata: %b\nid: %b\n\n" % (record.type.encode(), body[record.start : stop], event_id)


def sse_envelope(record: Record) -> bytes:
    """The same with the whole event, as a WebSocket carries it, in `data`."""
    return b"event: %b\ndata: %b\nid: %b\n\n" % (record.type.encode(), record.body, record.id)


def ws_message(record: Record) -> bytes:
    """The whole event."""
    return record.body


_FRAMES = {"sse": sse_block, "sse+envelope": sse_envelope, "ws": ws_message}


class NativeView:
    """Records one to one, those of other types left out; the terminal event always passes.

    Followers of one run share a view and mostly ask for the same records in turn: the last answer is kept.
    """

    def __init__(self, kind: str, types: frozenset[str] | None) -> None:
        self._frame = _FRAMES[kind]
        self._types = types
        self._records: Sequence[Record] = ()
        self._frames: Sequence[bytes] = ()

    def frames(self, records: Sequence[Record]) -> Sequence[bytes]:
        """See `View`."""
        kept = self._records
        if kept and records and records[0] is kept[0] and records[-1] is kept[-1] and len(records) == len(kept):
            return self._frames
        types, frame = self._types, self._frame
        if types is None:
            frames = [frame(records[0])] if len(records) == 1 else [frame(record) for record in records]
        else:
            frames = [frame(record) for record in records if record.last or record.type in types]
        if len(records) <= 64:  # the live edge; a page of a replay would only be held in memory
            self._records, self._frames = records, frames
        return frames


@lru_cache(maxsize=256)
def view(kind: str, types: frozenset[str] | None) -> NativeView:
    """The view shared by all who ask for the same: `kind` is `sse`, `sse+envelope` or `ws`."""
    return NativeView(kind, types)
