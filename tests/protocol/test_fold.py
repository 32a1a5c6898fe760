"""The folds of a run's events, the server's and the Python client's, from the vectors any client can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from twinwire.protocol.events import StreamEvent, StreamEventType
from twinwire.protocol.fold import Fold
from twinwire_client import Event, Fold as ClientFold

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/fold.json").read_text())
each = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
both = pytest.mark.parametrize("kind", [Fold, ClientFold], ids=["server", "client"])

BLANK: dict[str, Any] = {
    "text": "",
    "thinking": "",
    "step": None,
    "max_steps": None,
    "progress": None,
    "tools": {},
    "usage": None,
    "status": "running",
    "result": None,
    "error_type": None,
    "error": None,
    "reason": None,
    "questions": [],
    "waiting": False,
}


def event(kind: type[Fold | ClientFold], name: str, data: Any) -> Any:
    """An event as this fold takes it."""
    return (StreamEvent if kind is Fold else Event)(name, data)


def folded(kind: type[Fold | ClientFold], events: list[dict[str, Any]], fold: Any = None) -> Any:
    """A fold that has taken these events."""
    fold = fold or kind()
    for one in events:
        fold.apply(event(kind, one["type"], one["data"]))
    return fold


@each
@both
def test_vectors(kind: type[Fold | ClientFold], vector: dict[str, Any]) -> None:
    """Each vector's events give its state; what the state leaves out is as before the first event."""
    assert folded(kind, vector["events"]).state == BLANK | vector["state"]


@each
def test_from_a_snapshot(vector: dict[str, Any]) -> None:
    """The client goes on from the server's state after half of the events, and comes to the same."""
    events, middle = vector["events"], len(vector["events"]) // 2
    state = folded(Fold, events[:middle]).state
    fold = folded(ClientFold, events[middle:], ClientFold(state))
    assert fold.state == BLANK | vector["state"]
    assert state == folded(Fold, events[:middle]).state


KEYS = sorted({key for vector in VECTORS for event in vector["events"] for key in event["data"]})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.sampled_from([*StreamEventType, "MY_OWN"]), JSON)))
def test_never_raises(events: list[tuple[str, Any]]) -> None:
    """Whatever the data is, even no object, both folds take it, come to the same, and the state keeps its types."""
    fold, other = Fold(), ClientFold()
    for kind, data in events:
        fold.apply(StreamEvent(kind, data))
        other.apply(Event(kind, data))
        assert other.state == fold.state
    assert isinstance(fold.text, str)
    assert isinstance(fold.thinking, str)
    assert fold.state.keys() == BLANK.keys()
    assert fold.status in {"running", "completed", "incomplete", "cancelled", "max_steps", "error"}


def said(text: str) -> dict[str, Any]:
    return {"type": "LLM_CHUNK", "data": {"content": text}}


STEP: dict[str, Any] = {"type": "STEP_START", "data": {"step": 1}}
FINISHED: dict[str, Any] = {"type": "STEP_FINISH", "data": {"step": 1, "action": "tool_calls"}}


@pytest.mark.parametrize(
    ("events", "kept"),
    [
        ([], {}),
        ([STEP], {}),
        ([said("a"), {"type": "THINKING", "data": {"content": "b"}}], {"text": "a", "thinking": "b"}),
        ([STEP, said("é")], {"text": "é"}),
        ([STEP, said("a"), FINISHED], {}),
        ([STEP, said("a"), FINISHED, STEP], {}),
        ([STEP, said("a"), FINISHED, STEP, said("b")], {"text": "b"}),
        ([STEP, said("a"), FINISHED, said("b")], {"text": "ab"}),
    ],
)
def test_what_of_a_step_counts(events: list[dict[str, Any]], kept: dict[str, str]) -> None:
    """A step that goes on has what it said so far; with it, a RUN_RESUMED takes back just what came after it."""
    fold = folded(Fold, events)
    assert fold.kept == kept
    resumed = {"type": "RUN_RESUMED", "data": {"epoch": 1, "step": None, "void_after": len(events), **kept}}
    for kind in (Fold, ClientFold):
        state = folded(kind, [*events, said("void"), resumed]).state
        assert (state["text"], state["thinking"]) == (kept.get("text", ""), kept.get("thinking", ""))


def test_what_is_void_is_not_said() -> None:
    """The bytes of all that a run has said have nothing of what is void: that is in the usage's own count."""
    resumed = {"type": "RUN_RESUMED", "data": {"epoch": 1, "step": 2, "void_after": 3}}
    assert folded(Fold, [STEP, said("abc"), FINISHED, STEP, said("void"), resumed, STEP, said("de")]).said == 5


@both
def test_long_answer(kind: type[Fold | ClientFold]) -> None:
    """100,000 chunks with the text read now and then come out whole."""
    fold: Any = kind()
    chunk = event(kind, "LLM_CHUNK", {"content": "ab"})
    for number in range(100_000):
        fold.apply(chunk)
        if number % 10_000 == 0:
            assert len(fold.state["text"]) == 2 * (number + 1)
    assert fold.state["text"] == "ab" * 100_000


@both
def test_a_state_stays(kind: type[Fold | ClientFold]) -> None:
    """A state that was read is not changed by later events."""
    opened = {"tool_call_id": "c", "tool_name": "Read", "parameters": {}}
    fold = folded(kind, [{"type": "LLM_CHUNK", "data": {"content": "a"}}, {"type": "TOOL_CALL_START", "data": opened}])
    state = fold.state
    folded(kind, [{"type": "LLM_CHUNK", "data": {"content": "b"}}, {"type": "AGENT_FINISH", "data": {}}], fold)
    tools = {"c": {"name": "Read", "parameters": {}}}
    assert (state["text"], state["tools"], state["status"]) == ("a", tools, "running")
    assert (fold.state["text"], fold.state["tools"], fold.state["status"]) == ("ab", {}, "completed")


def test_enum_and_plain_string_are_the_same() -> None:
    """A type given as a member of the enum folds as its name does."""
    fold = Fold()
    fold.apply(StreamEvent(StreamEventType.ERROR, {"error_type": "interrupted", "message": "gone"}))
    assert (fold.status, fold.error_type, fold.error) == ("error", "interrupted", "gone")
