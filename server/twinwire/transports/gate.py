"""How many streams and sockets this process has open, in all and for each named user, and whether there is room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twinwire.errors import TooManyConnections

AGAIN_SECONDS = 5.0
Claim = Callable[[str | None], bool]
"""Says whose a connection is; False where that user has as many as they may."""


class Gate:
    """At most `total` connections at once, of them `each` for one user. A connection of nobody's counts in all only."""

    def __init__(self, *, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._open: Counter[str | None] = Counter()

    def full(self, user_id: str | None) -> bool:
        """Whether one more of this user's would be too many."""
        return self._open.total() >= self._total or (user_id is not None and self._open[user_id] >= self._each)

    def check(self, user_id: str | None) -> None:
        """Raises `TooManyConnections` where there is no room for one more of this user's."""
        if self.full(user_id):
            limit = self._total if self._open.total() >= self._total else self._each
            raise TooManyConnections(limit, AGAIN_SECONDS)

    @contextmanager
    def entered(self, user_id: str | None) -> Iterator[Claim]:
        """Count a connection of this user's until the block ends.

        One of nobody's yet becomes a user's by the call that this gives; False where that would be one too many.
        """
        counted = user_id
        self._open[counted] += 1

        def claim(claimed: str | None) -> bool:
            nonlocal counted
            if claimed is not None and self._open[claimed] >= self._each:
                return False
            self._leave(counted)
            counted = claimed
            self._open[counted] += 1
            return True

        try:
            yield claim
        finally:
            self._leave(counted)

    def _leave(self, user_id: str | None) -> None:
        self._open[user_id] -= 1
        if not self._open[user_id]:
            del self._open[user_id]
