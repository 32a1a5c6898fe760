"""Server-Sent Events (WHATWG HTML 9.2.6), split at any byte: bytes in, the events' names and data out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Event(NamedTuple):
    """One event: its `event` field, empty if it has none, and its `data`."""

    name: bytes
    data: bytes


class EventSplitter:
    """One stream. `feed` it what is read, and take `rest` when the stream has ended."""

    __slots__ = ("_after_cr", "_data", "_line", "_name")

    def __init__(self) -> None:
        self._line = bytearray()
        self._data = bytearray()
        self._name = b""
        self._after_cr = False

    @property
    def waiting(self) -> int:
        """The number of bytes that are kept, because their event is not whole yet."""
        return len(self._line) + len(self._data)

    @property
    def torn(self) -> bool:
        """Return whether the next byte may belong to an event that has begun."""
        return bool(self._line or self._data or self._name or self._after_cr)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that these bytes complete. All have to be taken. Events without data are left out."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")  # the other half of a CRLF
            self._after_cr = False
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        ended = data.endswith((b"\n", b"\r"))
        lines = data.splitlines()
        self._line += lines[0]
        if len(lines) == 1 and not ended:
            return
        lines[0] = bytes(self._line)
        self._line = bytearray() if ended else bytearray(lines.pop())
        for line in lines:
            if line:
                self._take(line)
            elif event := self._event():
                yield event

    def rest(self) -> Event | None:
        """Return the event that the end of the stream has cut off.

        The standard discards it. Other clients take it, since servers leave out the last blank line.
        """
        self._take(bytes(self._line))
        self._line.clear()
        return self._event()

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data += value.removeprefix(b" ") + b"\n"
        elif name == b"event":
            self._name = value.removeprefix(b" ")

    def _event(self) -> Event | None:
        event = Event(self._name, bytes(self._data[:-1])) if self._data else None
        self._name = b""
        self._data.clear()
        return event
