"""Conversation histories, per user and session, in memory. Bounded by count, bytes and idle time; no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from twinwire.log import SessionKey


class _Session(Struct):
    turns: list[tuple[str, str]]
    size: int
    used: float


class Sessions:
    """Histories of at most `max_sessions` sessions, `max_bytes` each, forgotten after `max_idle` seconds unused.

    The session unused for longest goes first, and in a session the oldest turn.
    """

    def __init__(
        self,
        *,
        max_sessions: int,
        max_bytes: int,
        max_idle: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._max_idle = max_idle
        self._clock = clock
        self._sessions: dict[SessionKey, _Session] = {}  # in the order of their last use

    def __len__(self) -> int:
        return len(self._sessions)

    def history(self, key: SessionKey) -> list[dict[str, str]]:
        """The conversation so far, oldest message first."""
        self._forget()
        session = self._sessions.pop(key, None)
        if session is None:
            return []
        session.used = self._clock()
        self._sessions[key] = session
        return messages(session.turns)

    def add(self, key: SessionKey, question: str, answer: str) -> None:
        """Add a turn."""
        session = self._sessions.pop(key, None) or _Session([], 0, 0.0)
        session.turns.append((question, answer))
        session.size += turn_size(question, answer)
        while session.size > self._max_bytes and session.turns:
            session.size -= turn_size(*session.turns.pop(0))
        session.used = self._clock()
        self._sessions[key] = session
        self._forget()

    def _forget(self) -> None:
        oldest_allowed = self._clock() - self._max_idle
        while self._sessions:
            key = next(iter(self._sessions))
            if len(self._sessions) <= self._max_sessions and self._sessions[key].used >= oldest_allowed:
                break
            del self._sessions[key]


def messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Questions and answers in OpenAI's chat form."""
    return [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]


def turn_size(question: str, answer: str) -> int:
    """How much a turn counts towards `max_bytes`."""
    return len(question.encode("utf-8", "replace")) + len(answer.encode("utf-8", "replace"))
