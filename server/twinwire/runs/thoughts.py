"""THINKING in phrases: a run's increments are joined until a sentence or a line ends, or half a second has passed.

A page that shows each event as a line of its own would else show a thought as one word a line. The events put together
are exactly the increments put together.
"""

from __future__ import annotations

import re
from typing import Any

from twinwire.protocol.events import StreamEvent, StreamEventType, checked
from twinwire.runs.due import Due

HOLD_SECONDS = 0.5
"""The time for which an increment may be held back."""

MAX_CHARS = 500
"""The length that a phrase may have."""

_THINKING = StreamEventType.THINKING
_NONE: dict[str, Any] = {}
_CLOSER = r"[\"'”’»)\]*_`」』）】》]"  # noqa: RUF001 - as quotations end
_CLOSERS = f"{_CLOSER}*"
_OPENER = re.compile(r"[\"'“‘«(\[*_`「『（【《]")  # noqa: RUF001 - as quotations begin
_CLOSED = re.compile(rf"{_CLOSER}\Z")
_GOES_ON = re.compile(rf"{_CLOSER}|\s")
_ENDS = re.compile(rf"[.!?…]{_CLOSERS}\s+|[。！？]{_CLOSERS}|[\r\n]+")  # noqa: RUF001 - as Chinese ends a sentence
_ENDED = re.compile(rf"(?:[^\W\d]{_CLOSERS}[.!?…]|[。！？]){_CLOSERS}\Z")  # noqa: RUF001 - the same
"""A sentence that ends with its increment: after a digit, as in `3.`, more of a number may follow."""


def _end(text: str, *, ended: bool, more: bool) -> int:
    """Return where the last sentence or line of this text ends; 0 if none does.

    `ended` says whether a sentence ends with the text, `more` whether what comes next may still belong to the last one.
    """
    if len(text) >= MAX_CHARS or (ended and not more):
        return len(text)
    end = 0
    for found in _ENDS.finditer(text):
        if not more or found.end() < len(text):
            end = found.end()
    return end


class Thought:
    """The thought of a run since its last phrase. `text` is empty if nothing is held back.

    Once anything was quoted, a sentence that ends with its increment waits for the next one, which may begin with the
    closing quote, unless it has that. A CR waits for its LF.
    """

    __slots__ = ("_ended", "_metadata", "_quoted", "_timestamp", "text")

    def __init__(self) -> None:
        self.text = ""
        self._ended = False  # a sentence ends with `text`
        self._quoted = False
        self._metadata = _NONE  # until there is text
        self._timestamp = ""

    def add(self, event: StreamEvent) -> list[StreamEvent] | None:
        """Take an increment in, and return the phrases that are complete, mostly none.

        Return None, having taken nothing, for an event that has more than `content` and a `step`: it is no increment
        that could be joined. Raise `NotAnEvent` as `checked` does.
        """
        data, metadata = event.data, event.metadata
        if not (type(data) is dict and len(data) == 1 and isinstance(text := data.get("content"), str)):
            return None
        text = str.__str__(text)  # not a subclass of somebody's
        if metadata and not (type(metadata) is dict and len(metadata) == 1 and type(metadata.get("step")) is int):
            return None
        phrases = []
        if self.text and (metadata != self._metadata or (self._ended and text and not _GOES_ON.match(text))):
            phrases.append(self.take(len(self.text)))
        if not self.text:
            first = checked(event)
            self._metadata, self._timestamp = first.metadata, first.timestamp
        self.text += text
        self._quoted = self._quoted or _OPENER.search(text) is not None
        self._ended = _ENDED.search(self.text) is not None
        more = self.text.endswith("\r") or (self._ended and self._quoted and not _CLOSED.search(self.text))
        if end := _end(self.text, ended=self._ended, more=more):
            phrases.append(self.take(end))
            if self.text:
                self._timestamp = checked(event).timestamp
        return phrases

    def take(self, end: int) -> StreamEvent:
        """Return the first `end` characters as an event, with the time of their first increment."""
        phrase, self.text = self.text[:end], self.text[end:]
        return StreamEvent(_THINKING, {"content": phrase}, self._timestamp, self._metadata)


class Held(Due):
    """The runs that hold a thought back."""

    def __init__(self) -> None:
        super().__init__(HOLD_SECONDS)
