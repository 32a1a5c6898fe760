"""Views: how the events of a run look in one format. Pure; `native` is Twinwire's own.

A view knows nothing of connections: it turns records into frames, and an adapter of `transports` sends them.
`registry` has all formats by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from twinwire.protocol.events import Record, StreamEvent, decode, dump


class View(Protocol):
    """One format. A frame is a whole SSE block, or the payload of one WebSocket text message, in UTF-8."""

    def frames(self, records: Sequence[Record]) -> Sequence[bytes]:
        """Return the frames of these records, in order; fewer or more than records, or none."""
        ...


@runtime_checkable
class JoiningView(View, Protocol):
    """A format that needs a run's first events, and can have them summed up for a follower that joins later."""

    def skip(self, records: Sequence[Record]) -> None:
        """Take in the run's next records without making frames of them."""
        ...

    def join(self) -> bytes:
        """Return what a stream begins with in place of the records that were skipped; empty if none were.

        Called once; `frames` goes on behind those.
        """
        ...


@runtime_checkable
class RecapView(View, Protocol):
    """A format that needs a run's first events, and begins with a `recap` in place of those that are trimmed."""

    def recap(self, events: Sequence[StreamEvent]) -> Sequence[bytes]:
        """Return the frames that a stream begins with if these events come first; `frames` goes on behind them."""
        ...


@runtime_checkable
class TurnView(View, Protocol):
    """A format whose protocol ends a turn to ask: another request then answers, and follows what comes after."""

    @property
    def waiting(self) -> bool:
        """True if the run waits for its user, as far as the view has seen."""
        ...

    def end_turn(self) -> Sequence[bytes]:
        """Return what ends the turn. The view is done."""
        ...


Translate = Callable[[StreamEvent], Iterable[Any]]
"""Turns each of a run's events into JSON values. It has a state: one per follower, from the first event on."""


def sse_data(value: Any) -> bytes:
    """Return a JSON value as an SSE block that has `data` alone."""
    return b"data: %b\n\n" % dump(value)


class SseView:
    """A view of what `translate` gives, each value an SSE block of its own; `end` is sent after the terminal event."""

    def __init__(self, translate: Translate, end: bytes = b"") -> None:
        self._translate = translate
        self._end = end

    def recap(self, events: Sequence[StreamEvent]) -> Sequence[bytes]:
        """See `RecapView`."""
        return [sse_data(value) for event in events for value in self._translate(event)]

    def frames(self, records: Sequence[Record]) -> Sequence[bytes]:
        """See `View`."""
        frames = [sse_data(value) for record in records for value in self._translate(decode(record.body))]
        if self._end and records and records[-1].last:
            frames.append(self._end)
        return frames


class Turns(Protocol):
    """A `Translate` whose format has turns."""

    def __call__(self, event: StreamEvent) -> Iterable[Any]:
        """See `Translate`."""
        ...

    @property
    def waiting(self) -> bool:
        """See `TurnView`."""
        ...

    def end_turn(self) -> Iterable[Any]:
        """Return the JSON values that end a turn."""
        ...


class SseTurnView(SseView):
    """The same for a format that has turns: `end` is also sent after what ends one."""

    def __init__(self, turns: Turns, end: bytes = b"") -> None:
        super().__init__(turns, end)
        self._turns = turns

    @property
    def waiting(self) -> bool:
        """See `TurnView`."""
        return self._turns.waiting

    def end_turn(self) -> Sequence[bytes]:
        """See `TurnView`."""
        frames = [sse_data(value) for value in self._turns.end_turn()]
        return [*frames, self._end] if self._end else frames
