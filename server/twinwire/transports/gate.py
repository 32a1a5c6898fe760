"""How many streams and sockets this process has open, in all and for each named user, and whether there is room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """At most `total` connections at once, of them `each` for one user. A connection of nobody's counts in all only."""

    def __init__(self, *, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._open: Counter[str | None] = Counter()

    def full(self, user_id: str | None) -> bool:
        """Whether one more of this user's would be too many."""
        return self._open.total() >= self._total or (user_id is not None and self._open[user_id] >= self._each)

    @contextmanager
    def entered(self, user_id: str | None) -> Iterator[None]:
        """Count a connection of this user's until the block ends."""
        self._open[user_id] += 1
        try:
            yield
        finally:
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]
