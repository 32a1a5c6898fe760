"""One cursor of one connection into one run's log: how far it has read, and how it hears that there is more."""

from __future__ import annotations

from collections.abc import Callable

from twinwire.formats import View
from twinwire.log import EventLog, Unsubscribe
from twinwire.log.tail import Audience, Tail
from twinwire.transports import Direct


class Follower:
    """One cursor of one connection into one run's log."""

    __slots__ = ("_after", "_audience", "_log", "_ready", "_tail", "_unsubscribe", "frame", "push", "run_id", "view")

    def __init__(self, ready: Callable[[Follower], None], log: EventLog, run_id: str, after: int, view: View) -> None:
        self._ready = ready
        self._log = log
        self.run_id = run_id
        self.view = view
        self._after = after
        self._unsubscribe: Unsubscribe | None = log.subscribe(run_id, self.wake)
        self._tail: Tail | None = None  # that it has joined: it is live
        self._audience: Audience | None = None

    @property
    def after(self) -> int:
        """The number of the last event it has seen."""
        return self._after if self._tail is None else self._tail.last

    @after.setter
    def after(self, seq: int) -> None:
        self._after = seq

    @property
    def pushed_at(self) -> float:
        """When an append last wrote to the connection (monotonic), while it is live."""
        return 0.0 if self._audience is None else self._audience.pushed_at

    def join(self, tail: Tail, direct: Direct) -> None:
        """Be live, having seen all that `tail` has."""
        self.frame, self.push = direct.frame, direct.push
        self._tail, self._audience = tail, tail.join(self)
        self.close()

    def lag(self) -> None:
        """See `Live`. What is not live already may."""
        if self._tail is not None:
            self._unsubscribe = self._log.subscribe(self.run_id, self.wake)
            self._after = self._tail.last
            self._tail.leave(self)
            self._tail = self._audience = None

    def close(self) -> None:
        """Be woken no more."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def wake(self) -> None:
        """There is more to read: an append calls this."""
        self._ready(self)
