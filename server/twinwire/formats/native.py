"""Twinwire's own format: an event is one SSE block, or one WebSocket message that is the record's body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from weakref import WeakValueDictionary

from twinwire.protocol.events import Record

SHARED_BYTES = 64 * 1024
"""An event of more bytes, alone in an append or a page, is sent from the record's own bytes."""
TYPE_BYTES = 192  # that a name in a filter takes


def sse_block(record: Record) -> bytes:
    """`event`, `data` (the event's data alone), `id` and a blank line (WHATWG HTML 9.2.5)."""
    body, stop = record.body, record.stop
    event_id = body[body.rindex(b'"', 0, -2) + 1 : -2]
    return b"event: %b\ndata: %b\nid: %b\n\n" % (record.type.encode(), body[record.start : stop], event_id)


def sse_parts(record: Record, start: int, stop: int) -> Sequence[bytes]:
    """Return the same block in three pieces, with `body[start:stop]` as its data.

    The large one is a view of the record's own bytes, so that an event of megabytes is not copied for each follower.
    """
    data = cast("bytes", memoryview(record.body)[start:stop])  # joined or written, it is as good
    return [b"event: %b\ndata: " % record.type.encode(), data, b"\nid: %b\n\n" % record.id]


def sse_envelope(record: Record) -> bytes:
    """The same with the whole event, as a WebSocket carries it, in `data`."""
    return b"event: %b\ndata: %b\nid: %b\n\n" % (record.type.encode(), record.body, record.id)


def ws_message(record: Record) -> bytes:
    """The whole event."""
    return record.body


_FRAMES = {"sse": sse_block, "sse+envelope": sse_envelope, "ws": ws_message}


class NativeView:
    """Turn records into frames one to one, and leave out those of other types. The terminal event always passes.

    A view keeps nothing: followers with one filter share it.
    """

    def __init__(self, kind: str, types: frozenset[str] | None) -> None:
        self._kind = kind
        self._frame = _FRAMES[kind]
        self._types = types
        self.weight = TYPE_BYTES * len(types or ())

    def frames(self, records: Sequence[Record]) -> Sequence[bytes]:
        """See `View`."""
        if (types := self._types) is not None:
            records = [record for record in records if record.last or record.type in types]
        if len(records) == 1:
            (record,) = records
            return self._large(record) if len(record.body) > SHARED_BYTES else [self._frame(record)]
        return [self._frame(record) for record in records]

    def _large(self, record: Record) -> Sequence[bytes]:
        """Return the frames of one event that is too large to be copied."""
        if self._kind == "ws":
            return [record.body]
        start, stop = (record.start, record.stop) if self._kind == "sse" else (0, len(record.body))
        return sse_parts(record, start, stop)


_unfiltered = {kind: NativeView(kind, None) for kind in _FRAMES}
_filtered: WeakValueDictionary[tuple[str, frozenset[str]], NativeView] = WeakValueDictionary()
"""Views are known only as long as somebody uses them: a client chooses the types."""


def view(kind: str, types: frozenset[str] | None) -> NativeView:
    """Return the view that all share who ask for the same: `kind` is `sse`, `sse+envelope` or `ws`."""
    if types is None:
        return _unfiltered[kind]
    found = _filtered.get((kind, types))
    if found is None:
        found = _filtered[kind, types] = NativeView(kind, types)
    return found
