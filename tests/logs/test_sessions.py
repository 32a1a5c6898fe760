"""Conversation histories: what is remembered, for whom, and for how long."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given, strategies as st

from twinwire.log import Limits, SessionKey
from twinwire.log.sessions import Sessions


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def questions(sessions: Sessions, key: SessionKey) -> list[str]:
    """The questions that a session remembers."""
    return [str(message["content"]) for message in sessions.history(key) if message["role"] == "user"]


def bounded(**bounds: Any) -> Sessions:
    """Sessions with bounds that are far away where the test does not set them."""
    clock = bounds.pop("clock", time.monotonic)
    far = {"max_sessions": 1000, "session_bytes": 2**20, "session_idle": 3600.0, "sessions_bytes": 2**30}
    return Sessions(Limits(max_events=1, max_bytes=1, retention=1, **{**far, **bounds}), clock)


def test_all_conversations_have_a_bound_together() -> None:
    """Over the bound on what all take the one unused for longest goes; many short turns count for what they take."""
    sessions = bounded(sessions_bytes=100_000)
    for number in range(100):
        sessions.add(("u", str(number)), "q" * 1000, "a" * 1000)
        sessions.history(("u", "0"))
        assert sessions.cost <= 100_000
    assert 20 < len(sessions) < 40
    assert questions(sessions, ("u", "0"))
    assert not questions(sessions, ("u", "1"))
    for _ in range(2000):
        sessions.add(("u", "short"), "q", "")
    assert sessions.cost <= 100_000
    sessions.add(("u", "last"), "\ud800 \N{GRINNING FACE}", "a")
    assert questions(sessions, ("u", "last")) == ["\ud800 \N{GRINNING FACE}"]


def test_a_conversation() -> None:
    """Turns come back as a model takes them, oldest first, and only to their own user and session."""
    sessions = bounded()
    sessions.add(("u", "s"), "one?", "1")
    sessions.add(("u", "s"), "two?", "2")
    sessions.add(("u", None), "else?", "3")
    assert sessions.history(("u", "s")) == [
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "2"},
    ]
    assert questions(sessions, ("u", None)) == ["else?"]
    assert sessions.history(("v", "s")) == sessions.history((None, "s")) == []
    assert len(sessions) == 2


def test_the_caller_owns_its_history() -> None:
    """What an agent does to the history it was given changes nothing here."""
    sessions = bounded()
    sessions.add(("u", None), "q", "a")
    mine = sessions.history(("u", None))
    mine[0]["content"] = "changed"
    mine.clear()
    assert questions(sessions, ("u", None)) == ["q"]


def test_asking_makes_no_session() -> None:
    """Reading the history of a session that does not exist costs no memory."""
    sessions = bounded()
    for number in range(100):
        assert sessions.history((str(number), None)) == []
    assert len(sessions) == 0


def test_the_session_unused_for_longest_goes_first() -> None:
    """Beyond the bound a session is forgotten; reading is use, too."""
    sessions = bounded(max_sessions=2)
    sessions.add(("a", None), "a", "")
    sessions.add(("b", None), "b", "")
    sessions.history(("a", None))
    sessions.add(("c", None), "c", "")
    assert questions(sessions, ("b", None)) == []
    assert questions(sessions, ("a", None)) == ["a"]
    assert questions(sessions, ("c", None)) == ["c"]


def test_idle_sessions_are_forgotten() -> None:
    """A session unused for longer than the bound is gone, its neighbours are not."""
    clock = Clock()
    sessions = bounded(session_idle=60.0, clock=clock)
    sessions.add(("a", None), "a", "")
    clock.now += 40
    sessions.add(("b", None), "b", "")
    clock.now += 20
    assert questions(sessions, ("a", None)) == ["a"]
    clock.now += 60.1
    assert questions(sessions, ("a", None)) == []
    assert len(sessions) == 0


def test_the_oldest_turns_go_first() -> None:
    """A session keeps its newest whole turns within the bound, which counts bytes and not characters."""
    sessions = bounded(session_bytes=10)
    sessions.add(("u", None), "1é", "1234")
    sessions.add(("u", None), "2", "12")
    assert questions(sessions, ("u", None)) == ["1é", "2"]
    sessions.add(("u", None), "3", "")
    assert questions(sessions, ("u", None)) == ["2", "3"]
    sessions.add(("u", None), "large", "é" * 6)
    assert questions(sessions, ("u", None)) == []
    sessions.add(("u", None), "4", "")
    assert questions(sessions, ("u", None)) == ["4"]


def test_text_that_is_no_unicode() -> None:
    """A lone surrogate in a question is counted and comes back."""
    sessions = bounded()
    sessions.add((None, "s"), "\ud800", "\udfff")
    assert questions(sessions, (None, "s")) == ["\ud800"]


TEXT = st.text(max_size=8)


@given(st.lists(st.tuples(st.sampled_from("abc"), TEXT, TEXT)))
def test_any_conversations(turns: list[tuple[str, str, str]]) -> None:
    """Against a list that forgets nothing: each session keeps the longest tail of whole turns within its bound."""
    sessions = bounded(session_bytes=20)
    said: dict[str, list[tuple[str, str]]] = {}
    for user, question, answer in turns:
        sessions.add((user, None), question, answer)
        kept = said.setdefault(user, [])
        kept.append((question, answer))
        while sum(len((q + a).encode()) for q, a in kept) > 20:
            kept.pop(0)
        assert questions(sessions, (user, None)) == [q for q, _ in kept]
