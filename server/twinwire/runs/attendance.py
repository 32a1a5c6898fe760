"""The attendance of runs: how many follow each on this worker, and the end of a run that nobody follows."""

from __future__ import annotations

import asyncio
from collections import Counter

from twinwire.log import Departure, Store
from twinwire.protocol.errors import LogUnavailable
from twinwire.protocol.start import GRACE_SECONDS
from twinwire.runs.run import Run

RECHECK_SECONDS = 5.0  # how soon a run that only other workers follow is looked at again


class Attendance:
    """The part of `Runs` that counts followers on this worker, of its own runs (`_live`) and of those of others."""

    log: Store
    _live: dict[str, Run]

    def __init__(self) -> None:
        self._elsewhere: Counter[str] = Counter()  # followers here of runs that go on elsewhere
        self._dropped: dict[str, asyncio.TimerHandle] = {}  # of each run that a follower was dropped from, until when
        self.dropped_seconds: float = GRACE_SECONDS

    def follow(self, run_id: str) -> None:
        """Somebody follows this run on this worker from now on, or has come back after being dropped."""
        if (dropped := self._dropped.pop(run_id, None)) is not None:
            dropped.cancel()
        elif (run := self._live.get(run_id)) is not None:
            run.followers.come()
        else:
            self._elsewhere[run_id] += 1
            if self._elsewhere[run_id] == 1:
                self.log.follow(run_id)

    def unfollow(self, run_id: str, departure: Departure = Departure.GONE) -> None:
        """Somebody who followed this run on this worker has gone.

        The one who was dropped last counts as present for `dropped_seconds` more, or until somebody comes.
        """
        if departure is not Departure.DROPPED:
            self._less(run_id, left=departure is Departure.LEFT)
            return
        if (before := self._dropped.pop(run_id, None)) is not None:
            before.cancel()
            self._less(run_id)
        loop = asyncio.get_running_loop()
        self._dropped[run_id] = loop.call_later(self.dropped_seconds, self._forget_dropped, run_id)

    def _forget_dropped(self, run_id: str) -> None:
        del self._dropped[run_id]
        self._less(run_id)

    def _less(self, run_id: str, *, left: bool = False) -> None:
        """Count one follower less."""
        if run_id in self._elsewhere:
            self._elsewhere[run_id] -= 1
            if self._elsewhere[run_id] == 0:
                del self._elsewhere[run_id]
                self.log.unfollow(run_id, left=left)
        elif (run := self._live.get(run_id)) is not None:
            run.followers.go(left=left)

    def unfollowed(self, run_id: str, *, left: bool = False) -> None:
        """See `Owner`."""
        if (run := self._live.get(run_id)) is not None:
            run.followers.gone(left=left)

    def _arrive(self, run: Run) -> None:
        """Count the followers of a run that another process has begun, and that this one goes on with, as its own.

        Those who have lost it with that process have some time to come back. The log knows that they are its owner's.
        """
        run.followers.resume(self._elsewhere.pop(run.info.run_id, 0), GRACE_SECONDS)

    def _depart(self, run: Run) -> None:
        """Count the followers of a run that does not go on here any more, but has not ended, as those of another's."""
        if (count := run.followers.count) > 0:
            self._elsewhere[run.info.run_id] = count
            self.log.follow(run.info.run_id)

    def _forget(self, run: Run) -> None:
        """Expect nobody back who was dropped from a run that has ended."""
        if (dropped := self._dropped.pop(run.info.run_id, None)) is not None:
            dropped.cancel()

    async def _cancel_if_unfollowed(self, run: Run) -> None:
        try:
            followed = await self.log.followed(run.info.run_id)
        except LogUnavailable:
            followed = True  # nobody knows
        if followed:
            run.followers.elsewhere = True
            run.followers.wait(RECHECK_SECONDS)
        elif run.followers.elsewhere:
            run.followers.gone()  # the last of them has gone since, and the grace begins
        else:
            run.cancel("nobody_followed")
