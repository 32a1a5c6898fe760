"""One cursor of one connection into one run's log: how far it has read, and how it hears that there is more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twinwire.formats import TurnView, View
from twinwire.log import EventLog, Unsubscribe
from twinwire.transports import Direct
from twinwire.transports.audience import Audience


class Follower:
    """One cursor of one connection into one run's log."""

    __slots__ = ("_after", "_audience", "_log", "_ready", "_turns", "_unpin", "_unsubscribe", "run_id", "view")

    def __init__(self, ready: Callable[[Follower], None], log: EventLog, run_id: str, after: int, view: View) -> None:
        self._ready = ready
        self._log = log
        self.run_id = run_id
        self.view = view
        self._turns = view if isinstance(view, TurnView) else None
        self._after = after
        self._unsubscribe: Unsubscribe | None = log.subscribe(run_id, self.wake, self.cursor)
        self._unpin: Unsubscribe | None = None  # while it is paused
        self._audience: Audience | None = None  # while it is live

    @property
    def after(self) -> int:
        """The number of the last event it has seen."""
        return self._after if self._audience is None else self._audience.last

    @after.setter
    def after(self, seq: int) -> None:
        self._after = seq

    def cursor(self) -> int:
        """Return the number of the last event it has seen, for its log."""
        return self.after

    @property
    def waiting(self) -> bool:
        """Return whether the turn that the view shows is over, since the run waits for its user."""
        return self._turns is not None and self._turns.waiting

    def end_turn(self) -> Sequence[bytes]:
        """Return what ends the turn."""
        return [] if self._turns is None else self._turns.end_turn()

    @property
    def pushed_at(self) -> float:
        """When an append last wrote to the connection (monotonic), while it is live."""
        return 0.0 if self._audience is None else self._audience.pushed_at

    def paused(self) -> bool:
        """Return whether it is neither live nor woken: its client has said that it is full, or it is closed."""
        return self._audience is None and self._unsubscribe is None

    def join(self, direct: Direct) -> None:
        """Be live from now on, if the log has nothing newer than what was read: appends write to the connection."""
        audience = Audience(self.view, direct.frame, self._after)
        joined = self._log.join(self.run_id, self._after, audience)
        if isinstance(joined, Audience):
            joined.add(self.lag, direct.push)
            self._audience = joined
            self.close()

    def lag(self) -> None:
        """Be live no longer: be woken instead, and page from the event after the last that it has seen. Idempotent."""
        if self._audience is not None:
            self._unsubscribe = self._log.subscribe(self.run_id, self.wake, self.cursor)
            self._after = self._audience.last
            if not self._audience.remove(self.lag):
                self._log.leave(self.run_id, self._audience)
            self._audience = None

    def pause(self) -> None:
        """Be neither live nor woken any more. Its log still knows how far it has read. Idempotent."""
        self.lag()
        leave, self._unsubscribe = self._unsubscribe, None
        if leave is not None:
            self._unpin = self._log.subscribe(self.run_id, lambda: None, self.cursor)
            leave()

    def close(self) -> None:
        """Be woken no more."""
        for leave in (self._unsubscribe, self._unpin):
            if leave is not None:
                leave()
        self._unsubscribe = self._unpin = None

    def wake(self) -> None:
        """There is more to read: an append calls this."""
        self._ready(self)
