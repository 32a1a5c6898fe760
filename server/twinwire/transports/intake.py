"""The memory that all clients of a process share for what they have sent and the server has not used yet.

That is heads, halves of bodies and of WebSocket messages, and requests or messages that are ahead of their turn. A
client chooses how much of it to send and how slowly to go on; the intake bounds what that comes to in all.
"""

from __future__ import annotations

from typing import Protocol

SMALL_BYTES = 16 * 1024
"""A holder of no more than this is not counted, and never loses it: its connection has room for it."""
INTAKE_BYTES = 128 * 2**20
TOO_LARGE = "The server is reading too many large requests at the moment. Try again later."


def intake_bytes(max_body: int) -> int:
    """Return how much the intake has for bodies of this size: for four of them at least."""
    return max(INTAKE_BYTES, 4 * max_body)


class Holder(Protocol):
    """A connection, or a request whose body is being read."""

    def held(self) -> int:
        """Return how many bytes it holds of what its client has sent."""
        ...

    def shed(self) -> None:
        """Refuse what it holds, tell the client to try again, and let go of it."""
        ...


class Intake:
    """At most `most` bytes at once. If there are more, the holder that has held some for longest sheds them.

    So whoever keeps bodies half-sent makes way for others. Who sends all that they have begun does so before.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._holders: dict[Holder, int] = {}  # in the order in which they began to hold more than a little

    def __contains__(self, holder: Holder) -> bool:
        return holder in self._holders

    def look(self, holder: Holder) -> None:
        """Count what this holder has now."""
        self._count(holder)
        while self.taken > self.most:
            oldest = next(iter(self._holders))
            if self._count(oldest):
                self.forget(oldest)
                oldest.shed()

    def forget(self, holder: Holder) -> None:
        """Count nothing of this holder any more. Idempotent."""
        self.taken -= self._holders.pop(holder, 0)

    def _count(self, holder: Holder) -> bool:
        """Return whether the holder has as much as was known: an app takes what it has without a word."""
        size, known = holder.held(), self._holders.get(holder, 0)
        if size <= SMALL_BYTES:
            self.forget(holder)
        else:
            self._holders[holder] = size
            self.taken += size - known
        return size == known
