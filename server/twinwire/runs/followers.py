"""The followers of a run in this process, and the grace that it has when there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Followers:
    """The number of a run's followers here. `on_nobody` is called once there was none for `grace` seconds.

    With a `grace` of None it never is. While the run is held, since it waits for its user, nobody is waited for.
    """

    def __init__(self, grace: float | None, on_nobody: Callable[[], None]) -> None:
        self._grace = grace
        self._on_nobody = on_nobody
        self._count = 0
        self._held = False
        self._came = False  # somebody has followed
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0  # a time of `time.monotonic`, before which nobody is missed
        self.elsewhere = False  # there were some elsewhere when that was looked at last

    @property
    def count(self) -> int:
        """Return how many follow here."""
        return self._count

    def start(self) -> None:
        """Begin: a run with a grace has it from the start, so that it does not wait for a follower for ever."""
        if self._grace:
            self.wait(self._grace)

    def resume(self, count: int, seconds: float) -> None:
        """Begin with so many, in a process that goes on with the run: others have these seconds to come back."""
        self._count, self._came = count, True
        self._until = time.monotonic() + seconds
        if self._grace is not None:
            self.wait(self._grace)

    def stop(self) -> None:
        """The run is over."""
        self._grace = None
        self._cancel()
        self._on_nobody = _nothing  # it holds the run, which would be in a cycle with this

    def hold(self) -> None:
        """The run waits for its user."""
        self._held = True
        self._cancel()

    def go_on(self) -> None:
        """It waits no longer: if nobody follows, the grace begins anew; with none, if somebody has ever followed."""
        self._held = False
        if self._grace or (self._grace is not None and self._came):
            self.wait(self._grace)

    def wait(self, seconds: float) -> None:
        """Call `on_nobody` after this time, unless somebody comes before."""
        self._cancel()
        if self._count == 0 and not self._held and self._grace is not None:
            seconds = max(seconds, self._until - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(seconds, self._on_nobody)

    def come(self) -> None:
        """Somebody follows."""
        self._came = True
        self._until = 0.0
        self._count += 1
        self._cancel()

    def go(self, *, left: bool = False) -> None:
        """Somebody has gone; if they `left` for good, nobody is waited for."""
        self._count -= 1
        self.gone(left=left)

    def gone(self, *, left: bool = False) -> None:
        """Somebody has gone, here or elsewhere."""
        self._came = True
        self._until = 0.0
        self.elsewhere = False
        if self._grace is not None:
            self.wait(0.0 if left else self._grace)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nothing() -> None:
    pass
