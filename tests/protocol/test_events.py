"""Events, and the one encoding of them: exact bytes, read back by parsers that are not ours."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from httpx_sse import EventSource, ServerSentEvent
from hypothesis import given, strategies as st

from support.vector_files import Vector, each
from twinwire.formats.native import sse_block, sse_envelope
from twinwire.protocol.events import (
    TERMINAL_TYPES,
    Record,
    StreamEvent,
    StreamEventType,
    decode,
    dump,
    encode,
    restored,
)
from twinwire.protocol.wire import new_run_id, sse_open

RUN = new_run_id()


def parse_sse(body: bytes) -> list[ServerSentEvent]:
    """What an SSE parser that is not ours makes of these bytes, given one by one."""

    class OneByOne(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return (body[at : at + 1] for at in range(len(body)))

    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return list(EventSource(httpx.Response(200, headers=headers, stream=OneByOne())).iter_sse())


def event_of(vector: Vector) -> StreamEvent:
    """A vector's input as an event."""
    return StreamEvent(**{name: vector["input"][name] for name in ("type", "data", "timestamp", "metadata")})


@each("events")
def test_vectors(vector: Vector) -> None:
    """Each vector's event has exactly these bytes on each transport, or is refused for its type."""
    if "error" in vector:
        with pytest.raises(ValueError, match="type"):
            event_of(vector)
        return
    record = encode(event_of(vector), vector["input"]["run_id"], vector["input"]["seq"])
    expected = vector["expected"]
    assert record.body.decode() == expected["ws"]
    assert sse_block(record).decode() == expected["sse"]
    assert sse_envelope(record).decode() == expected["sse_envelope"]
    assert record.last == expected["terminal"]


@each("events")
def test_vectors_read_by_another_parser(vector: Vector) -> None:
    """An independent SSE parser, fed byte by byte, sees one event with the type, the data and the id that went in."""
    if "error" in vector:
        return
    given_, expected = vector["input"], vector["expected"]
    (event,) = parse_sse(expected["sse"].encode())
    assert (event.event, json.loads(event.data)) == (given_["type"], given_["data"])
    assert event.id == f"evt-{given_['run_id']}-{given_['seq']}"
    (event,) = parse_sse(expected["sse_envelope"].encode())
    assert event.data == expected["ws"]
    assert json.loads(event.data)["data"] == given_["data"]


def test_to_sse_is_what_the_guide_shows() -> None:
    """The guide's own snippet gives its block, up to JSON's white space."""
    event = StreamEvent(
        type=StreamEventType.LLM_CHUNK,
        data={"content": "Hello", "delta": "Hello"},
        timestamp="2026-02-21T10:30:45.123Z",
        metadata={"step": 1},
    )
    first, second, third, *rest = event.to_sse().split("\n")
    assert first == "event: LLM_CHUNK"
    assert second.startswith("data: ")
    assert json.loads(second[6:]) == {"content": "Hello", "delta": "Hello"}
    assert re.fullmatch(r"id: evt-[0-9a-z-]+", third)
    assert rest == ["", ""]
    assert event.type == "LLM_CHUNK"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", StreamEvent(type="ERROR").timestamp)


def test_an_event_of_no_run_gets_an_id_once() -> None:
    """Written out again it keeps the random id it got; another event gets another."""
    event = StreamEvent("X")
    assert event.id == ""
    assert event.to_sse() == event.to_sse()
    assert event.to_sse() != StreamEvent("X").to_sse()
    assert StreamEvent("X", id="evt-mine").to_sse() == "event: X\ndata: {}\nid: evt-mine\n\n"


@pytest.mark.parametrize("ending", ["\n", "\r", "\0", "\r\ndata: x"])
def test_no_id_breaks_out_of_its_line(ending: str) -> None:
    """An id that would end its line, or that a browser would ignore, is refused."""
    with pytest.raises(ValueError, match="id"):
        StreamEvent("X", id=f"evt-1{ending}").to_sse()


def test_timestamp_is_now() -> None:
    """The time filled in is the time now, in UTC."""
    before = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=1)
    stamp = dt.datetime.fromisoformat(StreamEvent("X").timestamp)
    assert before <= stamp <= dt.datetime.now(dt.UTC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)
TYPES = st.sampled_from([*StreamEventType]) | st.from_regex(r"[A-Z][A-Z0-9_]*", fullmatch=True)
EVENTS = st.builds(StreamEvent, TYPES, OBJECTS, st.just("2026-02-21T10:30:45.123Z") | st.text(), OBJECTS)
NUMBERS = st.integers(1, 2**63 - 1)


@given(EVENTS, NUMBERS)
def test_round_trip(event: StreamEvent, seq: int) -> None:
    """What is encoded decodes to the same event, with our decoder and with Python's own."""
    record = encode(event, RUN, seq)
    back = decode(record.body)
    event.id = f"evt-{RUN}-{seq}"
    assert back == event
    assert json.loads(record.body) == msgspec.structs.asdict(event)
    assert b"\n" not in record.body
    assert b"\r" not in record.body


@given(EVENTS, NUMBERS)
def test_slices(event: StreamEvent, seq: int) -> None:
    """A record's slice is exactly the event's data, its id the event's, its end known from its type."""
    record = encode(event, RUN, seq)
    assert json.loads(record.data) == event.data
    assert record.id == f"evt-{RUN}-{seq}".encode()
    assert (record.seq, record.type, record.last) == (seq, event.type, event.type in TERMINAL_TYPES)


@given(st.lists(EVENTS, max_size=4))
def test_stream_read_by_another_parser(events: list[StreamEvent]) -> None:
    """A body of many events, with heartbeats between, is read by another parser as just those events."""
    records = [encode(event, RUN, number) for number, event in enumerate(events, 1)]
    opening, *seen = parse_sse(sse_open(RUN, 0, 1130) + b": heartbeat\n\n".join(map(sse_block, records)))
    assert (opening.event, opening.data, opening.id, opening.retry) == ("message", "", f"evt-{RUN}-0", 1130)
    assert [(e.event, json.loads(e.data), e.id.encode()) for e in seen if e.data] == [
        (event.type, event.data, record.id) for event, record in zip(events, records, strict=True)
    ]


def test_lone_surrogates_become_question_marks() -> None:
    """Text that no UTF-8 can hold, such as a file's name, does not end a run."""
    event = StreamEvent("X", {"a\udcff": "\ud800b\udfff"})
    assert event.to_sse().split("\n")[1] == 'data: {"a?":"?b?"}'
    assert json.loads(encode(event, RUN, 1).body)["data"] == {"a?": "?b?"}


def _cycle() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    return cycle


def _deep() -> dict[str, Any]:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"in": deep}
    return deep


@pytest.mark.parametrize(
    "value", [object(), {(1, 2): 3}, _cycle(), _deep(), {"\ud800": _cycle()}, {"\ud800": object()}]
)
def test_what_is_no_json_raises_what_is_documented(value: Any) -> None:
    """Data that is no JSON is a TypeError, a ValueError or a RecursionError, and never half an event."""
    with pytest.raises((TypeError, ValueError, RecursionError)):
        dump({"value": value})


def test_a_timestamp_is_a_text() -> None:
    """An agent's event whose timestamp is none is refused when it is written, not when somebody reads it."""
    with pytest.raises(TypeError, match="timestamp"):
        encode(StreamEvent("X", timestamp=5), RUN, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["data", "metadata"])
@pytest.mark.parametrize("value", [None, "text", [], [1], 5, True])
def test_data_and_metadata_are_objects(part: str, value: Any) -> None:
    """An agent that gives no object does not put one on the wire: clients rely on it."""
    event = StreamEvent("X")
    setattr(event, part, value)
    with pytest.raises(TypeError, match="object"):
        encode(event, RUN, 1)


def test_big_numbers() -> None:
    """Integers of any size are written as they are; what is no number in JSON is null."""
    data = {"big": 10**300, "nan": float("nan"), "inf": float("-inf")}
    assert json.loads(encode(StreamEvent("X", data), RUN, 1).body)["data"] == {"big": 10**300, "nan": None, "inf": None}


@pytest.mark.parametrize(
    "text", ["", "{}", '{"type":"x"}', '{"type":"X","data":[]}', '{"type":"X"', '{"data":{}}', "[]"]
)
def test_decode_refuses(text: str) -> None:
    """What is no event is a `DecodeError`."""
    with pytest.raises(msgspec.DecodeError):
        decode(text)


def test_decode_ignores_what_it_does_not_know() -> None:
    """A later server's keys and types do not break a client."""
    assert decode('{"new":1,"type":"NEW_ONE","data":{"k":1},"timestamp":"t","metadata":{},"id":"i"}') == StreamEvent(
        "NEW_ONE", {"k": 1}, "t", {}, "i"
    )


def test_record_is_frozen() -> None:
    """Many connections share one record."""
    with pytest.raises(AttributeError):
        Record(1, "X", b"", 0, 0, last=False).seq = 2  # type: ignore[misc]


def test_a_record_is_restored_from_its_parts() -> None:
    """What a log has kept of an event is that event; parts that cannot be an event's are refused."""
    kept = encode(StreamEvent("AGENT_FINISH", {"result": "é"}), "r", 3)
    parts: tuple[Any, ...] = (3, kept.type, kept.body, kept.start, kept.stop)
    assert restored(*parts) == kept
    wrong: dict[int, list[Any]] = {
        1: ["X", None, 5],
        2: [b"", b"\0", "text", None, 5],
        3: [0, kept.start + 1, "30", None],
        4: [0, -1, 10**9, ""],
    }
    for place, values in wrong.items():
        for value in values:
            changed = [*parts]
            changed[place] = value
            with pytest.raises((ValueError, TypeError, AttributeError)):
                restored(*changed)
