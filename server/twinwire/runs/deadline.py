"""The time by which a run has to end. It stands still while the run waits for its user."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from twinwire.protocol.errors import RunError, RunTimeout
from twinwire.runs.due import Due


class Deadline:
    """`seconds` from a run's begin; then `expire` is called, and `error` is what ends the run.

    `due` is a time of `time.monotonic`, infinite while the run waits, which it may do for `longest` seconds in all.
    Other processes have spent `spent` of the seconds, and waited for `waited` more. `due_together` are the deadlines of
    all runs that have so many seconds.
    """

    __slots__ = (
        *("_allowed", "_error", "_expire", "_left", "_longest", "_seconds", "_since", "_timer", "_together", "due"),
    )

    def __init__(
        self,
        seconds: float,
        longest: float,
        expire: Callable[[], None],
        due_together: Due | None = None,
        *,
        spent: float = 0.0,
        waited: float = 0.0,
    ) -> None:
        self.due = time.monotonic() + seconds - spent
        self._seconds = seconds
        self._error: RunError | None = None
        self._longest = longest - waited
        self._allowed = longest
        self._expire = expire
        self._together = None if spent else due_together
        self._left = 0.0
        self._since: float | None = None  # when the wait began, if the run waits
        self._timer: asyncio.TimerHandle | None = None

    @property
    def error(self) -> RunError:
        """The error that ends the run when it is due."""
        return self._error or RunTimeout(self._seconds)

    @property
    def waited(self) -> float:
        """Return the seconds that the run has waited."""
        now = 0.0 if self._since is None else time.monotonic() - self._since
        return self._allowed - self._longest + now

    def start(self) -> None:
        """Call `expire` when the time is up."""
        if self._together is not None:
            self._together.add(self._fire)
        else:
            self._call(self.due - time.monotonic(), self._expire)

    def stop(self) -> None:
        """The run is over."""
        self._cancel()
        self._expire = _nothing  # it is the run's, which would be in a cycle with this

    def hold(self) -> None:
        """The run waits: stand still."""
        if self._since is None and self._longest > 0 and self.due < math.inf:
            self._since = time.monotonic()
            self._left, self.due = self.due - self._since, math.inf
            self._call(self._longest, self.go_on)

    def go_on(self) -> None:
        """The run waits no longer, or has waited for as long as it may."""
        if self._since is None:
            return
        now = time.monotonic()
        self._longest -= now - self._since
        self._since = None
        if self.due == math.inf:
            self.due = now + self._left
        self._call(self._left, self._expire)

    def hurry(self, error: RunError, seconds: float) -> None:
        """Be due with this error in so many seconds, if that is sooner. A signal handler may call this."""
        due = time.monotonic() + seconds
        if due < self.due:
            self._error, self.due = error, due

    def _call(self, seconds: float, what: Callable[[], None]) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, what)

    def _fire(self) -> None:
        """Expire, unless the run has been held or is over since it was due."""
        if self._together is not None:
            self._expire()

    def _cancel(self) -> None:
        if self._together is not None:
            self._together.remove(self._fire)
            self._together = None
        if self._timer is not None:
            self._timer.cancel()


def _nothing() -> None:
    pass
