"""The followers of one run that have seen all there is: what is appended is framed once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from twinwire.formats import TurnView, View
from twinwire.protocol.events import Record

Push = Callable[[bytes], object]
"""Write bytes to a connection. Raises `RuntimeError` if the connection has gone."""


class Audience:
    """The live followers of one run with one view; a `Sink` of its log.

    Audiences with the same view are equal, so that a log that is given a second one goes on with the first. `frame`
    puts frames into bytes for a connection, in the same way for all followers with this view. A member is the function
    that takes it out of the audience again: it is called before an append that the audience is not given.
    """

    __slots__ = ("_frame", "_members", "_pushes", "_turns", "_view", "last", "pushed_at")

    def __init__(self, view: View, frame: Callable[[Sequence[bytes]], bytes], last: int) -> None:
        self.last = last
        """The number of the last event that all members have seen."""
        self.pushed_at = 0.0
        """When the members were last written to, on the monotonic clock."""
        self._view = view
        self._turns = view if isinstance(view, TurnView) else None
        self._frame = frame
        self._members: dict[Callable[[], None], Push] = {}
        self._pushes: tuple[Push, ...] | None = ()  # to each member; None: not put together yet

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Audience) and other._view is self._view

    def __hash__(self) -> int:
        return id(self._view)

    def add(self, lag: Callable[[], None], push: Push) -> None:
        """Write to this member, too."""
        self._members[lag] = push
        self._pushes = None

    def remove(self, lag: Callable[[], None]) -> bool:
        """Write to this member no more. Return whether any are left."""
        del self._members[lag]
        self._pushes = None
        return bool(self._members)

    def lag(self) -> None:
        """See `Sink`: let each member page on from `last`."""
        for lag in tuple(self._members):
            lag()

    def push(self, records: Sequence[Record]) -> None:
        """See `Sink`: write to each member what it sees of the records.

        Once a turn is over, the members page: their pumps end it.
        """
        self.last = records[-1].seq
        if frames := self._view.frames(records):
            data = self._frame(frames)
            self.pushed_at = monotonic()
            if self._pushes is None:
                self._pushes = tuple(self._members.values())
            for push in self._pushes:  # some may leave meanwhile
                try:  # noqa: SIM105 - a context manager would cost more than the rest
                    push(data)
                except RuntimeError:
                    pass  # the connection has gone, and its pump has yet to hear of it
        if self._turns is not None and self._turns.waiting:
            self.lag()
