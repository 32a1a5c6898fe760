"""The tail of a run's log and its sinks, and the audiences that write to followers that have seen all there is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support.logs import records
from twinwire.formats import View, native
from twinwire.log.tail import PAGE_BYTES, Tail
from twinwire.protocol.errors import StaleWriter
from twinwire.protocol.events import Record, StreamEvent, encode
from twinwire.protocol.wire import new_run_id
from twinwire.transports.audience import Audience

RUN = new_run_id()


class Listener:
    """A sink and what it was given. While it has joined, it knows how far the tail is."""

    def __init__(self, tail: Tail) -> None:
        self.tail = tail
        self.given: list[int] = []
        self.lagged: list[int] = []

    def push(self, records: Sequence[Record]) -> None:
        self.given += [record.seq for record in records]

    def lag(self) -> None:
        self.lagged.append(self.tail.last)


class Connection:
    """A live follower and what was pushed to it; with `gone` its connection has gone."""

    def __init__(self, tail: Tail, view: View, *, gone: bool = False) -> None:
        self.tail = tail
        self.gone = gone
        self.framed = 0
        self.data: list[bytes] = []
        self.lagged = False
        joined = tail.join(tail.last, Audience(view, self.frame, tail.last))
        assert isinstance(joined, Audience)
        self.audience = joined
        self.audience.add(self.lag, self.push)

    def frame(self, frames: Sequence[bytes]) -> bytes:
        self.framed += 1
        return b"|".join(frames)

    def push(self, data: bytes) -> None:
        if self.gone:
            raise RuntimeError("closed")
        self.data.append(data)

    def lag(self) -> None:
        self.lagged = True


def test_framed_once_for_all_with_one_view() -> None:
    """What is appended is framed once for each view and written to each connection; one that has gone is no harm."""
    tail, view = Tail(), native.view("ws", None)
    gone, first, second = (Connection(tail, view, gone=i == 0) for i in range(3))
    other = Connection(tail, native.view("ws", frozenset({"THINKING"})))
    assert first.audience is second.audience is not other.audience
    batch = records(RUN, 0, 2)
    tail.append(0, batch)
    assert first.data == second.data == [b"|".join(record.body for record in batch)]
    assert [one.framed for one in (gone, first, second, other)] == [1, 0, 0, 0]
    assert other.data == []
    assert other.audience.last == first.audience.last == 2
    assert first.audience.remove(first.lag)
    assert not other.audience.remove(other.lag)
    first.audience.lag()
    assert [one.lagged for one in (gone, first, second, other)] == [True, False, True, False]


def test_terminal_and_large_appends_are_read() -> None:
    """Before the terminal event, and before more than a page, who is live lags, having seen what came before."""
    tail = Tail()
    listener = Listener(tail)
    tail.join(0, listener)
    tail.append(0, records(RUN, 0, 1))
    large = encode(StreamEvent("LLM_CHUNK", {"content": "x" * PAGE_BYTES}), RUN, 2)
    tail.append(1, [large])
    tail.join(2, listener)
    tail.append(2, [encode(StreamEvent("AGENT_FINISH", {}), RUN, 3)])
    assert listener.lagged == [1, 2]
    assert listener.given == [1]
    assert not tail.followed


def test_a_refused_append_reaches_nobody() -> None:
    """A stale writer's append is not written, and the same append again is not written twice."""
    tail = Tail()
    listener = Listener(tail)
    tail.join(0, listener)
    batch = records(RUN, 0, 1)
    tail.append(0, batch)
    tail.append(0, batch)
    with pytest.raises(StaleWriter):
        tail.append(5, records(RUN, 5, 1))
    assert listener.given == [1]


def test_restart_leaves_nobody_live() -> None:
    """Where other records take the place of those held, who was live has seen up to the last of the old ones."""
    tail = Tail()
    listener = Listener(tail)
    tail.join(0, listener)
    tail.append(0, records(RUN, 0, 3))
    tail.restart(8)
    tail.append(7, records(RUN, 7, 1))
    assert listener.lagged == [3]
    assert listener.given == [1, 2, 3]


def test_wake_is_for_those_who_are_live_too() -> None:
    """Where there is something else to see than an append, who is live lags, so that it is woken as all others are."""
    tail = Tail()
    listener = Listener(tail)
    tail.join(0, listener)
    tail.append(0, records(RUN, 0, 2))
    tail.wake()
    assert listener.lagged == [2]
