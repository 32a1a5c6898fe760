"""Conversation histories, per user and session, in memory. Bounded by count, bytes and idle time; no I/O."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from twinwire.log.base import Limits, SessionKey

SESSION_COST = 1024
TURN_COST = 192
"""Bytes that a session, and a turn in it, take beside their texts."""


class _Session(Struct):
    """A conversation, as UTF-8: a text with one emoji in it would take four bytes for each of its characters."""

    turns: deque[tuple[bytes, bytes]]
    size: int
    used: float

    @property
    def cost(self) -> int:
        """Return the bytes that this session takes in memory."""
        return SESSION_COST + TURN_COST * len(self.turns) + self.size


class Sessions:
    """Histories within `Limits`. The session unused for longest goes first; in a session, the oldest turn."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._sessions: dict[SessionKey, _Session] = {}  # in the order of their last use
        self.cost = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def history(self, key: SessionKey) -> list[dict[str, str]]:
        """Return the conversation so far, oldest message first."""
        self._forget()
        session = self._sessions.pop(key, None)
        if session is None:
            return []
        session.used = self._clock()
        self._sessions[key] = session
        return messages([(_text(question), _text(answer)) for question, answer in session.turns])

    def add(self, key: SessionKey, question: str, answer: str) -> None:
        """Add a turn."""
        session = self._sessions.pop(key, None)
        if session is None:
            session = _Session(deque(), 0, 0.0)
        else:
            self.cost -= session.cost
        turn = question.encode("utf-8", "surrogatepass"), answer.encode("utf-8", "surrogatepass")
        session.turns.append(turn)
        session.size += sum(map(len, turn))
        while session.size > self._limits.session_bytes and session.turns:
            session.size -= sum(map(len, session.turns.popleft()))
        session.used = self._clock()
        self._sessions[key] = session
        self.cost += session.cost
        self._forget()

    def forget(self, user_id: str) -> None:
        """Delete all conversations of a user."""
        for key in [key for key in self._sessions if key[0] == user_id]:
            self.cost -= self._sessions.pop(key).cost

    def _forget(self) -> None:
        limits = self._limits
        oldest_allowed = self._clock() - limits.session_idle
        while self._sessions:
            key = next(iter(self._sessions))
            crowded = len(self._sessions) > limits.max_sessions or self.cost > limits.sessions_bytes
            if not crowded and self._sessions[key].used >= oldest_allowed:
                break
            self.cost -= self._sessions.pop(key).cost


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Return questions and answers in OpenAI's chat form."""
    return [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]


def turn_size(question: str, answer: str) -> int:
    """Return how much a turn counts towards `Limits.session_bytes`."""
    return len(question.encode("utf-8", "replace")) + len(answer.encode("utf-8", "replace"))
