"""The Python client reads the wire as the server writes it: the vectors that the server's own parsers are tested with.

It shares no code with the server. What both must know is compared here too.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from support.documents import ROOT
from support.node import CLIENT
from support.vector_files import Vector, each
from twinwire.protocol import errors
from twinwire.protocol.errors import TwinwireError
from twinwire.protocol.events import TERMINAL_TYPES, TYPE_PATTERN, StreamEventType
from twinwire.protocol.wire import MAX_SEQ, MAX_TYPE, MAX_TYPES, check_run_id, new_run_id, parse_after, parse_cursor
from twinwire_client import EVENT_TYPES, Event, ProtocolError, is_terminal, wire
from twinwire_client.events import decode_event

PROTOCOL = (ROOT / "server/PROTOCOL.md").read_text()


@each("run_ids")
def test_run_ids(vector: Vector) -> None:
    """A well-formed run id is one, and nothing else is."""
    assert wire.is_run_id(vector["input"]) == ("error" not in vector)


@each("cursors")
def test_cursors(vector: Vector) -> None:
    """Cursors are read exactly, or refused in a sentence about `after`."""
    given_, expected = vector["input"], vector.get("expected")
    if isinstance(given_, str):
        named = wire.parse_event_id(given_)
        assert (named and {"run_id": named.run_id, "seq": str(named.number)}) == expected
    elif expected is not None:
        assert str(wire.parse_after(given_["after"], given_["run_id"])) == expected
    else:
        with pytest.raises(ValueError, match=r"^`after` must be .*\.$"):
            wire.parse_after(given_["after"], given_["run_id"])


@each("events")
def test_events(vector: Vector) -> None:
    """Each vector's event is read from the server's bytes as it went in; an ill-formed type is refused."""
    parts = {name: vector["input"][name] for name in ("type", "data", "timestamp", "metadata")}
    if "error" in vector:
        with pytest.raises(ProtocolError, match=r"not well-formed: .*type"):
            decode_event(msgspec.json.encode(parts).decode())
        return
    expected = vector["expected"]
    envelope = expected["sse_envelope"].partition("\ndata: ")[2].partition("\n")[0]
    for text in expected["ws"], envelope:
        event = decode_event(text)
        assert {name: getattr(event, name) for name in parts} == parts
        assert wire.parse_event_id(event.id) == (vector["input"]["run_id"], vector["input"]["seq"])
        assert is_terminal(event) == expected["terminal"]


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"type":"x"}', '{"type":"X","data":[]}', '{"type":"X"', '{"data":{}}', "[]", "[" * 100_000, "\udcff"],
)
def test_what_is_no_event(text: str) -> None:
    """Any other text is a `ProtocolError`."""
    with pytest.raises(ProtocolError, match=r"^The server sent an event that is not well-formed: .*\.$"):
        decode_event(text)


def test_a_later_server_s_event() -> None:
    """Keys and types that the client does not know do not break it."""
    text = '{"new":1,"type":"NEW_ONE","data":{"k":1},"timestamp":"t","metadata":{},"id":"i"}'
    assert decode_event(text) == Event("NEW_ONE", {"k": 1}, "t", {}, "i")


RUN = new_run_id()
NEARLY = st.from_regex(rf"(evt-({RUN}|[a-z2-9]{{25,27}})-)?-?\w{{1,20}}", fullmatch=True)


@given(st.integers() | st.text() | NEARLY)
def test_any_cursor(after: int | str) -> None:
    """Client and server take the same cursors for the same numbers, and refuse the same."""

    def told(parse: Any) -> int | None:
        try:
            return int(parse(after, RUN))
        except (ValueError, TwinwireError):
            return None

    assert told(wire.parse_after) == told(parse_after)
    assert wire.parse_event_id(str(after)) == _server(lambda: parse_cursor(str(after), "id"))
    assert wire.is_run_id(after) == (isinstance(after, str) and _server(lambda: check_run_id(after)) is not None)


def _server(parse: Any) -> Any:
    try:
        return parse()
    except TwinwireError:
        return None


@given(st.text() | st.from_regex(r"[A-Z][A-Z0-9_]*\n?"))
def test_any_type(name: str) -> None:
    """Client and server take the same names for event types."""
    assert wire.is_event_type(name) == (TYPE_PATTERN.fullmatch(name) is not None)


@pytest.mark.parametrize(
    ("types", "wrong"),
    [
        ("LLM_CHUNK", "a list of event types"),
        (["llm_chunk"], "event types"),
        (["A" * 65], "event types"),
        (["A"] * 33, "at most 32"),
        ([], "at least one"),
    ],
)
def test_a_bad_filter(types: Any, wrong: str) -> None:
    """A filter that a server would refuse is refused before a run is started, one text in place of a list too."""
    with pytest.raises(ValueError, match=rf"^`types` must .*{wrong}.*\.$"):
        wire.check_types(types)


def test_a_good_filter() -> None:
    """None stands for all; the names of a list are sent as they are."""
    assert wire.check_types(None) is None
    assert wire.check_types(("ERROR", "MY_OWN_2")) == ["ERROR", "MY_OWN_2"]


def test_what_both_know() -> None:
    """Client and server have the same types, bounds and codes of errors that pass."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TwinwireError)]
    assert set(EVENT_TYPES) == set(StreamEventType)
    assert wire.TERMINAL_TYPES == TERMINAL_TYPES
    assert (wire.MAX_NUMBER, wire.MAX_TYPES, wire.MAX_TYPE) == (MAX_SEQ, MAX_TYPES, MAX_TYPE)
    assert {kind.code for kind in kinds if kind.status in {429, 503, 504}} == wire.PASSING


def test_statuses() -> None:
    """The status of each code is PROTOCOL.md's, in both clients."""
    told: dict[str, int] = {}
    for statuses, codes in re.findall(r"^\| (\d{3}(?:, \d{3})*) \| (`.*?) \|", PROTOCOL, re.MULTILINE):
        numbers, names = [int(status) for status in statuses.split(", ")], re.findall(r"`(\w+)`", codes)
        told |= dict(zip(names, numbers if len(numbers) > 1 else numbers * len(names), strict=True))
    assert told == wire.STATUSES
    table = (CLIENT / "src/errors.js").read_text()
    theirs = {name: int(status) for name, status in re.findall(r"\['(\w+)', (\d{3})\]", table)}
    assert theirs
    assert theirs.items() <= told.items()
