"""A fast path of `chunks`: the text of an event that differs from the events before it in its text alone."""

from __future__ import annotations

from collections.abc import Callable

MAX_MISSES = 8
"""After so many events in a row that were not like the one before, a stream counts as one of events that differ."""


def plain(text: bytes) -> str:
    """Return the text, if these bytes are all of a JSON string (RFC 8259, section 7) and nothing in it is escaped."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return ""
    return decoded if decoded.isprintable() and '"' not in decoded and "\\" not in decoded else ""


class AlikeEvents:
    """What is around the text in the events of one body, where it is the same in each of them.

    Its plain twin is `plain.plain_text`, which decodes an event's JSON. These hold:

    - It takes whole events only, of one line each, from a stream that is not within an event.
    - What is around a text was the same in two events in a row. With another text in its place, that text is again
      all that comes of the event: so the text stands nowhere else in it.
    - A text that it reads has nothing escaped in it, and is all between what is around it.
    - Whoever uses it gives it up after `MAX_MISSES`: api.openai.com has a random field in each chunk, and looking for
      what is alike would cost 7 % of a relayed token's instructions there.
    """

    __slots__ = ("_around", "_seen", "misses")

    def __init__(self) -> None:
        self._around = b"", b""
        self._seen = b"", b""  # around the last text
        self.misses = 0
        """How many events in a row were not like the one before."""

    def text(self, event: bytes) -> str:
        """Return the text of an event that is like those before. It is empty if the event is to be decoded."""
        before, behind = self._around
        if before and event.startswith(before) and event.endswith(behind):
            return plain(event[len(before) : -len(behind)])
        return ""

    def learn(self, event: bytes, text: str, sole_text: Callable[[bytes], str]) -> None:
        """Take in an event that was decoded: `data: `, a chunk whose only part is this text, and two line feeds.

        `sole_text` returns the text of a chunk that comes to that alone, and else an empty one.
        """
        if not plain(encoded := text.encode()):
            return
        before, found, behind = event.partition(b'"%b"' % encoded)
        seen, self._seen = self._seen, (before + b'"', b'"' + behind)
        other = encoded + b"?"
        if found and seen == self._seen and sole_text(event[6:-2].replace(found, b'"%b"' % other, 1)) == other.decode():
            self._around = self._seen
            self.misses = 0
        else:
            self.misses += 1
