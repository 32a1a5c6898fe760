"""The fold of a run's events, from the vectors any client can read, and fed with anything at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from twinwire.protocol.events import StreamEvent, StreamEventType
from twinwire.protocol.fold import Fold

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/fold.json").read_text())

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
}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    """Each vector's events give its state; what the state leaves out is as before the first event."""
    fold = Fold()
    for event in vector["events"]:
        fold.apply(StreamEvent(event["type"], event["data"]))
    assert fold.state == BLANK | vector["state"]


KEYS = sorted({key for vector in VECTORS for event in vector["events"] for key in event["data"]})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.sampled_from([*StreamEventType, "MY_OWN"]), JSON)))
def test_never_raises(events: list[tuple[str, Any]]) -> None:
    """Whatever the data is, even no object, the fold takes it and its state keeps its types."""
    fold = Fold()
    for kind, data in events:
        fold.apply(StreamEvent(kind, data))
    assert isinstance(fold.text, str)
    assert isinstance(fold.thinking, str)
    assert fold.state.keys() == BLANK.keys()
    assert fold.status in {"running", "completed", "incomplete", "cancelled", "max_steps", "error"}


def test_long_answer() -> None:
    """100,000 chunks with the text read now and then come out whole."""
    fold = Fold()
    for number in range(100_000):
        fold.apply(StreamEvent("LLM_CHUNK", {"content": "ab"}, timestamp="t"))
        if number % 10_000 == 0:
            assert len(fold.text) == 2 * (number + 1)
    assert fold.text == "ab" * 100_000


def test_enum_and_plain_string_are_the_same() -> None:
    """A type given as a member of the enum folds as its name does."""
    fold = Fold()
    fold.apply(StreamEvent(StreamEventType.ERROR, {"error_type": "interrupted", "message": "gone"}))
    assert (fold.status, fold.error_type, fold.error) == ("error", "interrupted", "gone")
