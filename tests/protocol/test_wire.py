"""Run ids, cursors, policies and JSON input: from the vectors any client can read, and fed with anything at all."""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from support.vector_files import Vector, each, error_of
from twinwire.protocol.errors import BadRequest, TwinwireError
from twinwire.protocol.events import event_id
from twinwire.protocol.wire import (
    MAX_SEQ,
    Cursor,
    check_run_id,
    check_types,
    decode_json,
    http_chunk,
    new_run_id,
    parse_after,
    parse_cursor,
    parse_on_disconnect,
    sse_open,
    ws_text,
)


@each("run_ids")
def test_run_ids(vector: Vector) -> None:
    """A well-formed run id is itself; whatever else is answered like a run that does not exist."""
    if "error" in vector:
        with pytest.raises(TwinwireError) as caught:
            check_run_id(vector["input"])
        assert error_of(caught.value) == vector["error"]
    else:
        assert check_run_id(vector["input"]) == vector["expected"]


@each("cursors")
def test_cursors(vector: Vector) -> None:
    """Cursors are read exactly, or refused naming the field they came in."""
    given_ = vector["input"]
    found: Any
    try:
        if isinstance(given_, str):
            cursor = parse_cursor(given_, "after")
            found = {"run_id": cursor.run_id, "seq": str(cursor.seq)}
        else:
            found = str(parse_after(given_["after"], given_["run_id"]))
    except TwinwireError as error:
        found = error_of(error)
    assert found == vector.get("error", vector.get("expected"))


def test_new_run_ids() -> None:
    """A new run id is 128 random bits: well formed, canonical base32, never the same."""
    ids = {new_run_id() for _ in range(1000)}
    assert len(ids) == 1000
    for run_id in ids:
        assert check_run_id(run_id) == run_id
        assert len(base64.b32decode(run_id.upper() + "======")) == 16


@given(st.integers(0, MAX_SEQ))
def test_cursor_round_trip(seq: int) -> None:
    """A cursor written and read is the same."""
    cursor = Cursor(new_run_id(), seq)
    assert parse_cursor(event_id(*cursor), "after") == cursor
    assert parse_after(event_id(*cursor), cursor.run_id) == parse_after(seq, cursor.run_id) == seq


@given(st.text() | st.from_regex(r"evt-[a-z2-7]{26}-\w+"))
def test_any_text(text: str) -> None:
    """Any text at all is a cursor that is written the same, or a `BadRequest` that does not echo it."""
    try:
        told = event_id(*parse_cursor(text, "last-event-id"))
    except BadRequest as error:
        told = f"{error.field}: {error.message}"
    refusal = r"last-event-id: [^`]*`last-event-id`[^`]{,40}(`evt-<run>-<number>`)?[^`]{,20}"
    assert told == text or re.fullmatch(refusal, told)


def test_a_number_of_100_000_digits() -> None:
    """A huge number is refused before anybody makes an integer of it, which would take quadratic time."""
    digits = "9" * 100_000
    run_id = new_run_id()
    for text in (digits, f"evt-{run_id}-{digits}"):
        with pytest.raises(BadRequest):
            parse_after(text, run_id)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("continue", None),
        ("cancel", 0.0),
        ("cancel_after:0", 0.0),
        ("cancel_after:10", 10.0),
        ("cancel_after:2.5", 2.5),
        ("cancel_after:0.001", 0.001),
        ("cancel_after:999999", 999_999.0),
    ],
)
def test_on_disconnect(text: str, seconds: float | None) -> None:
    """The three policies."""
    assert parse_on_disconnect(text) == seconds


@pytest.mark.parametrize(
    "seconds",
    ["", "-1", "+1", "1e3", "inf", "nan", " 1", "1 ", "1\n", "1_0", "1000000", ".5", "1.", "1.0001", "٣", "1s"],
)
def test_bad_on_disconnect_seconds(seconds: str) -> None:
    """Only plain decimal seconds count."""
    with pytest.raises(BadRequest) as caught:
        parse_on_disconnect(f"cancel_after:{seconds}")
    assert caught.value.field == "on_disconnect"


@pytest.mark.parametrize("text", ["", "Continue", "continue ", "cancel\n", "cancel_after", "cancel_after=10", "stop"])
def test_bad_on_disconnect(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(BadRequest) as caught:
        parse_on_disconnect(text)
    assert caught.value.field == "on_disconnect"


def test_types() -> None:
    """Event types are a set; None is all of them, an empty list none of them."""
    assert check_types(None) is None
    assert check_types([]) == frozenset()
    assert check_types(["ERROR", "MY_OWN_2", "ERROR"]) == frozenset({"ERROR", "MY_OWN_2"})
    assert check_types(["A" * 64]) == frozenset({"A" * 64})
    assert check_types([f"A{number}" for number in range(32)]) == frozenset(f"A{number}" for number in range(32))
    assert check_types(",".join(["A"] * 32)) == frozenset({"A"})


@pytest.mark.parametrize(
    "name", ["", "error", "ERROR ", " ERROR", "ERROR\n", "A,B", "1A", "_A", "A-B", "Ä", "A\0", "A" * 65, "A" * 100_000]
)
def test_bad_types(name: str) -> None:
    """An ill-formed type is refused in a short message, and not merely never sent."""
    with pytest.raises(BadRequest) as caught:
        check_types(["ERROR", name])
    assert caught.value.field == "types"
    assert len(caught.value.message) < 200


def test_opening_block() -> None:
    """The first block of a body primes EventSource's time and cursor, and is no event (no data)."""
    run_id = new_run_id()
    assert sse_open(run_id, 7, 1130) == f"retry: 1130\nid: evt-{run_id}-7\n\n".encode()


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    number: int


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner | None = None
    many: list[Inner] = []
    anything: Any = None


OUTER = msgspec.json.Decoder(Outer)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"inner":{"number":"x"}}', "inner.number"),
        (b'{"inner":{}}', "inner.number"),
        (b'{"inner":{"number":1,"more":2}}', "inner.more"),
        (b'{"more":2}', "more"),
        (b'{"a b.c":2}', "a b.c"),
        (b'{"many":[{"number":1},{"number":null}]}', "many[1].number"),
        (b'{"many":[1]}', "many[0]"),
        (b"[]", None),
        (b"", None),
        (b"{", None),
        (b"{}x", None),
        (b'{"anything":"\xff"}', None),
        (b'{"\xff":1}', None),
        (b"\xff\xfe{\x00}\x00", None),
        (b"\xef\xbb\xbf{}", None),
        (b'{"anything":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"anything":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, None),
        (b'{"anything":"\\ud800"}', None),
        (b'{"anything":1e999}', None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_json_names_the_field(data: bytes, field: str | None) -> None:
    """Whatever is wrong with a body, it is one `BadRequest` that names the field where one is at fault."""
    with pytest.raises(BadRequest) as caught:
        decode_json(data, OUTER)
    if field is not None:
        assert caught.value.field == field
    assert caught.value.message
    assert not re.search(r"\$|\bstruct\b|Traceback|Outer|Inner|codec", caught.value.message)


def test_errors_do_not_echo_megabytes() -> None:
    """An error's text and field stay short, however long the name of the unknown field is."""
    with pytest.raises(BadRequest) as caught:
        decode_json(b'{"%b":1}' % (b"k" * 1_000_000), OUTER)
    assert len(str(caught.value.payload())) < 600


def test_100_000_digits_in_json() -> None:
    """A number too large for anything is refused or read at once, and ends nothing."""
    with pytest.raises(BadRequest):
        decode_json(b'{"inner":{"number":%b}}' % (b"9" * 100_000), OUTER)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes(data: bytes) -> None:
    """Any bytes at all decode or are a `BadRequest`."""
    with suppress(BadRequest):
        assert isinstance(decode_json(data, OUTER), Outer)


@given(st.lists(st.binary(min_size=1, max_size=70_000), min_size=1, max_size=3))
def test_frames_of_a_server(frames: list[bytes]) -> None:
    """A client's WebSocket parser and chunk parser read just the frames that were written."""
    client = ClientProtocol(parse_uri("ws://h/"), state=State.OPEN, max_size=None)
    client.receive_data(ws_text(frames))
    assert [bytes(event.data) for event in client.events_received() if isinstance(event, Frame)] == frames
    size, _, rest = http_chunk(frames).partition(b"\r\n")
    assert rest == b"".join(frames) + b"\r\n"
    assert int(size, 16) == len(rest) - 2
