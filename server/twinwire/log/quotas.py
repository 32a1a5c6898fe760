"""The starts of each user, for a log of one process, and the refusal of a start over the user's quota."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import NamedTuple

from twinwire.log.base import Quota, RunInfo
from twinwire.protocol.errors import RateLimited, TooManyRuns, TooManyWaiting

WINDOW_SECONDS = 60.0
MAX_USERS = 50_000


def refusal(quota: Quota, ends: float, frees: float) -> TooManyRuns:
    """Return why no run starts: it is `ends` seconds until enough have ended, `frees` until enough starts are old.

    Both are 0 if too many runs wait for their user.
    """
    if not (ends or frees):
        return TooManyWaiting(quota.waiting)
    if ends >= frees:
        return TooManyRuns(quota.runs, ends)
    return RateLimited(quota.starts, frees)


class _Start(NamedTuple):
    """When a run was started, and when it ends at the latest if it does not wait for its user; infinity if unknown."""

    at: float
    ends: float


class Quotas:
    """The starts of each named user: those of the last minute, and of runs that `goes_on` says still go on.

    Runs that are `waiting`, a set that changes, wait for their users.

    In memory. A start is forgotten when neither is so; a user who comes no more is forgotten as others come. Of more
    than `MAX_USERS` users the one looked at longest ago is forgotten: if nobody is authenticated, names cost nothing.
    """

    def __init__(
        self,
        goes_on: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
        waiting: Collection[str] = (),
    ) -> None:
        self._goes_on = goes_on
        self._clock = clock
        self._starts: dict[str, dict[str, _Start]] = {}  # by user and run, oldest first
        self._waiting = waiting

    def __len__(self) -> int:
        return len(self._starts)

    def admit(self, run: RunInfo, quota: Quota | None) -> None:
        """Count the start of a run, of a named user who has a quota. Raises `TooManyRuns` and `RateLimited`."""
        if quota is None or run.user_id is None:
            return
        now = self._clock()
        for user_id in list(islice(self._starts, 2)):  # two for one that may come: none is left for ever
            self._prune(user_id, now)
        starts = self._starts.setdefault(run.user_id, {})
        if len(starts) >= min(quota.runs, quota.starts, quota.waiting):
            live = {name: start for name, start in starts.items() if self._goes_on(name)}
            latest = now + quota.longest
            going = [min(start.ends, latest) for name, start in live.items() if name not in self._waiting]
            if len(live) - len(going) >= quota.waiting:
                raise refusal(quota, 0.0, 0.0)
            recent = [start.at + WINDOW_SECONDS for start in starts.values() if start.at > now - WINDOW_SECONDS]
            ends, frees = _wait(going, quota.runs, now), _wait(recent, quota.starts, now)
            if ends or frees:
                raise refusal(quota, ends, frees)
        starts[run.run_id] = _Start(now, now + quota.longest)
        self._bound()

    def resume(self, run: RunInfo) -> None:
        """Count a run of a named user that another process has started, and that goes on here: as no new start."""
        if run.user_id is not None:
            starts = self._starts.setdefault(run.user_id, {})
            starts[run.run_id] = _Start(self._clock() - WINDOW_SECONDS, math.inf)
            self._bound()

    def _bound(self) -> None:
        if len(self._starts) > MAX_USERS:
            del self._starts[next(iter(self._starts))]

    def forget(self, user_id: str) -> None:
        """Forget a user's starts but for those of the last minute: nobody starts more by being forgotten."""
        if user_id in self._starts:
            self._prune(user_id, self._clock())

    def _prune(self, user_id: str, now: float) -> None:
        """Forget a user's starts that are of no more account; the user, who is looked at last from now on, too."""
        starts = self._starts.pop(user_id)
        old = [name for name, start in starts.items() if start.at <= now - WINDOW_SECONDS]
        for name in [name for name in old if not self._goes_on(name)]:
            del starts[name]
        if starts:
            self._starts[user_id] = starts


def _wait(times: Sequence[float], limit: int, now: float) -> float:
    """Return the seconds until fewer than `limit` of these times are yet to come; 0 if that is so."""
    return max(sorted(times)[-limit] - now, 0.001) if len(times) >= limit else 0.0
