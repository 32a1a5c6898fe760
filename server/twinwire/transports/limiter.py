"""The connection limiter: it counts the streams and sockets of this process, in all and for each named user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twinwire.protocol.errors import TooManyConnections

AGAIN_SECONDS = 5.0
STATE_BYTES = 128 * 2**20
FREE_STATE = 8 * 1024
Claim = Callable[[str | None], bool]
"""Says whose a connection is. Returns False if that user has as many as they may."""


class Limiter:
    """At most `total` connections at once, of them `each` for one user. A connection of nobody's counts in all only."""

    def __init__(self, *, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._open: Counter[str | None] = Counter()
        self.state = 0
        """The bytes that sockets share, of followers, filters and request ids, beyond `FREE_STATE` of each socket."""

    def full(self, user_id: str | None) -> bool:
        """Return whether one more of this user's would be too many."""
        if self._open.total() >= self._total:
            return True
        return user_id is not None and self._open[user_id] >= self._each

    def check(self, user_id: str | None) -> None:
        """Raise `TooManyConnections` if one more of this user's would be too many."""
        if self.full(user_id):
            limit = self._total if self._open.total() >= self._total else self._each
            raise TooManyConnections(limit, AGAIN_SECONDS)

    def entered(self, user_id: str | None) -> Entry:
        """Count a connection of this user's while a `with` block lasts, which gets the `Claim`.

        One of nobody's yet becomes a user's by a claim; False if that would be one too many.
        """
        return Entry(self, user_id)

    def stranger(self) -> Entry:
        """Count a connection only once a claim says whose it is: strangers take no place from those who are known."""
        return Entry(self, None, counted=False)

    def enter(self, user_id: str | None) -> None:
        """Count one more of this user's."""
        self._open[user_id] += 1

    def leave(self, user_id: str | None) -> None:
        """Count one less."""
        self._open[user_id] -= 1
        if not self._open[user_id]:
            del self._open[user_id]


class Entry:
    """One connection, as the limiter counts it; small, for there are many. See `Limiter.entered`."""

    __slots__ = ("_counted", "_limiter", "_user_id")

    def __init__(self, limiter: Limiter, user_id: str | None, *, counted: bool = True) -> None:
        self._limiter = limiter
        self._user_id = user_id
        self._counted = counted

    def __enter__(self) -> Claim:
        if self._counted:
            self._limiter.enter(self._user_id)
        return self

    def __exit__(self, *_: object) -> None:
        if self._counted:
            self._limiter.leave(self._user_id)

    def __call__(self, user_id: str | None) -> bool:
        """See `Claim`."""
        if self._counted:
            self._limiter.leave(self._user_id)
        full = self._limiter.full(user_id)
        self._counted = not full
        if not full:
            self._user_id = user_id
            self._limiter.enter(user_id)
        return not full
