"""The conversations in a SQLite log, as writes on one connection within its transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import msgspec

from twinwire.log.base import Limits, SessionKey
from twinwire.log.sessions import turn_size
from twinwire.log.sqlite.file import Damage, key_of
from twinwire.protocol.events import dump

_turns = msgspec.json.Decoder(list[tuple[str, str]])


class Conversations:
    """See `Tables`, which they are a part of; `clock` is its time."""

    def __init__(self, db: sqlite3.Connection, limits: Limits, clock: Callable[[], float]) -> None:
        self._db = db
        self._limits = limits
        self._clock = clock

    def history(self, session: SessionKey) -> list[tuple[str, str]]:
        """Return the turns of a conversation; reading is use."""
        key, now = key_of(*session), self._clock()
        found = self._db.execute(
            "UPDATE sessions SET used = ? WHERE key = ? AND used >= ? RETURNING turns",
            (now, key, now - self._limits.session_idle),
        ).fetchall()
        try:
            return _turns.decode(found[0][0]) if found else []
        except (ValueError, TypeError):
            raise Damage("a conversation is not what was written") from None

    def remember(self, session: SessionKey, question: str, answer: str) -> None:
        """Add a turn. The oldest ones go if there is too much."""
        turns = [*self.history(session), (question, answer)]
        size = sum(turn_size(*turn) for turn in turns)
        while turns and size > self._limits.session_bytes:
            size -= turn_size(*turns.pop(0))
        self._db.execute(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", (key_of(*session), self._clock(), dump(turns))
        )

    def forget(self, user_id: str) -> None:
        """Delete all of a user's."""
        self._db.execute("DELETE FROM sessions WHERE json_extract(key, '$[0]') = ?", (user_id,))

    def expire(self) -> bool:
        """Forget the one unused for longest, after `session_idle` or if there are over `max_sessions`.

        Return whether there was one.
        """
        row = self._db.execute("SELECT key, used FROM sessions ORDER BY used LIMIT 1").fetchone()
        if row is None or (
            row[1] >= self._clock() - self._limits.session_idle
            and self._db.execute("SELECT count(*) FROM sessions").fetchone()[0] <= self._limits.max_sessions
        ):
            return False
        self._db.execute("DELETE FROM sessions WHERE key = ?", row[:1])
        return True
