"""Views: which frames a run's records become, for whom."""

from __future__ import annotations

import sys
import weakref

import pytest
from hypothesis import given, strategies as st

from twinwire.formats import View, native
from twinwire.protocol.events import Record, StreamEvent, encode
from twinwire.protocol.wire import new_run_id

RUN = new_run_id()
FRAME = {"sse": native.sse_block, "sse+envelope": native.sse_envelope, "ws": native.ws_message}
KINDS = sorted(FRAME)


def records(*types: str) -> list[Record]:
    """A run's records of these types."""
    return [encode(StreamEvent(name, {"n": number}), RUN, number) for number, name in enumerate(types, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_per_record(kind: str) -> None:
    """Unfiltered, records become frames one to one and in order."""
    run = records("AGENT_START", "LLM_CHUNK", "LLM_CHUNK", "AGENT_FINISH")
    view: View = native.view(kind, None)
    assert list(view.frames(run)) == [FRAME[kind](record) for record in run]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("terminal", ["AGENT_FINISH", "ERROR"])
def test_a_filter_lets_the_terminal_through(kind: str, terminal: str) -> None:
    """Of other types only the terminal event passes, with any filter."""
    run = records("AGENT_START", "LLM_CHUNK", "THINKING", terminal)
    frame = FRAME[kind]
    assert list(native.view(kind, frozenset({"LLM_CHUNK"})).frames(run)) == [frame(run[1]), frame(run[3])]
    assert list(native.view(kind, frozenset()).frames(run)) == [frame(run[3])]
    assert list(native.view(kind, frozenset({terminal})).frames(run)) == [frame(run[3])]
    assert list(native.view(kind, frozenset({"LLM_CHUNK"})).frames(run[:1])) == []


def test_nothing_gives_nothing() -> None:
    """No records are no frames, from a fresh view and from one that has been used."""
    view = native.NativeView("ws", None)
    assert list(view.frames([])) == []
    view.frames(records("X"))
    assert list(view.frames([])) == []


def test_followers_share_a_view() -> None:
    """Those who ask for all types share a view, and a WebSocket's frame is the record's own body."""
    assert all(native.view(kind, None) is native.view(kind, None) for kind in KINDS)
    [record] = records("LLM_CHUNK")
    assert native.view("ws", None).frames([record])[0] is record.body


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("types", [None, frozenset({"DATA"})])
def test_a_large_event_is_not_copied(kind: str, types: frozenset[str] | None) -> None:
    """Its frames are the same bytes as ever, the large one of them those of the record itself, and nothing is kept."""
    [record] = [encode(StreamEvent("DATA", {"text": "x" * 10**6}), RUN, 1)]
    view = native.NativeView(kind, types)
    frames = view.frames([record])
    assert b"".join(frames) == FRAME[kind](record)
    assert max(frames, key=len) is record.body or memoryview(max(frames, key=len)).obj is record.body
    holders = sys.getrefcount(record)
    view.frames([record])
    assert sys.getrefcount(record) == holders
    assert list(native.NativeView(kind, frozenset({"OTHER"})).frames([record])) == []


def test_a_filter_is_known_as_long_as_it_is_used() -> None:
    """Those who ask for the same types at a time share a view; it goes with the last of them."""
    types = frozenset({"LLM_CHUNK", "MINE"})
    first = native.view("sse", types)
    assert native.view("sse", frozenset(types)) is first
    assert native.view("ws", types) is not first
    gone = weakref.ref(first)
    del first
    assert gone() is None


PAGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 12)), max_size=20)


@given(PAGES, st.sampled_from(KINDS), st.sampled_from([None, frozenset({"A"}), frozenset({"B", "C"})]))
def test_a_view_keeps_nothing(pages: list[tuple[int, int, int]], kind: str, types: frozenset[str] | None) -> None:
    """Whatever pages of whatever runs are asked of one view, each answer is as from a fresh one."""
    runs = [records(*("ABC"[(run + at) % 3] for at in range(12))) for run in range(4)]
    shared = native.NativeView(kind, types)
    for run, start, end in pages:
        page = runs[run][start:end]
        assert list(shared.frames(page)) == list(native.NativeView(kind, types).frames(page))
