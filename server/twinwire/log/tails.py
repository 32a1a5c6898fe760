"""The part of a log that the tails of its runs answer, and its backpressure to the agents of the runs."""

from __future__ import annotations

import asyncio
import functools
from abc import ABC, abstractmethod

from twinwire.log.backpressure import NOBODY, TICK_SECONDS, Backpressure
from twinwire.log.base import Owner, Sink
from twinwire.log.tail import Tail


class Tails(ABC):
    """The part of an `EventLog` that the tails of its runs answer.

    A log that is to trim events which a follower has yet to read keeps them and calls `_wait`: the run's agent is
    blocked. `_trim` is called once all have read them, or are not waited for any longer. The log looks when a follower
    reads a page beyond them, when one leaves, and every `TICK_SECONDS`.
    """

    _owner: Owner

    @abstractmethod
    def _tail(self, run_id: str) -> Tail | None:
        """Return the tail of a run, or None if this process holds none."""

    @abstractmethod
    def _trim(self, run_id: str, upto: int) -> None:
        """Trim the run's events up to this number: nobody is waited for any longer."""

    def newest(self, run_id: str) -> int | None:
        """See `EventLog`."""
        return None if (tail := self._tail(run_id)) is None else tail.last

    def join(self, run_id: str, after: int, sink: Sink) -> Sink | None:
        """See `EventLog`."""
        return None if (tail := self._tail(run_id)) is None else tail.join(after, sink)

    def leave(self, run_id: str, sink: Sink) -> None:
        """See `EventLog`."""
        if (tail := self._tail(run_id)) is not None:
            tail.leave(sink)

    def _cursors(self, run_id: str, tail: Tail) -> dict[object, int]:  # noqa: ARG002 - for a log of several workers
        """Return the cursors of all that follow a run of this worker."""
        return tail.cursors

    def _slowest(self, run_id: str, tail: Tail) -> int:
        """Return the lowest cursor of a run's followers that are waited for, or `NOBODY`."""
        return tail.slowest(self._cursors(run_id, tail))

    def _wait(self, run_id: str, tail: Tail, due: int) -> None:
        """Have the run's followers read up to number `due` before it is trimmed up to there."""
        backpressure = tail.backpressure = tail.backpressure or Backpressure()
        waits = backpressure.due > 0
        backpressure.due = max(backpressure.due, due)
        if not (waits or self._reached(run_id, tail, due)):
            backpressure.look = functools.partial(self._reached, run_id, tail, NOBODY)
            self._owner.block(run_id)
            self._tick_later(run_id, tail, backpressure)

    def _reached(self, run_id: str, tail: Tail, cursor: int) -> bool:
        """A follower has read up to this number. Return whether that was what the run waited for."""
        backpressure = tail.backpressure
        if backpressure is None or not 0 < backpressure.due <= cursor:
            return False
        if self._slowest(run_id, tail) < backpressure.due:
            return False
        self._proceed(run_id, backpressure)
        return True

    def _proceed(self, run_id: str, backpressure: Backpressure) -> None:
        self._trim(run_id, backpressure.end())
        if not backpressure.due:  # else there is more to wait for
            self._owner.unblock(run_id)

    def _tick_later(self, run_id: str, tail: Tail, backpressure: Backpressure) -> None:
        if not backpressure.ticks:
            backpressure.ticks = True
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick, run_id, tail, backpressure)

    def _tick(self, run_id: str, tail: Tail, backpressure: Backpressure) -> None:
        backpressure.ticks = False
        if backpressure.due:
            backpressure.tick(self._cursors(run_id, tail))
            if not self._reached(run_id, tail, NOBODY):
                self._tick_later(run_id, tail, backpressure)
