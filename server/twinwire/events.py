"""The event: what an agent yields, and the one encoding of it that every connection sends.

Only types and bytes: no I/O, no asyncio. What cursors, commands and replies look like is `wire`'s.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct, field


class StreamEventType(StrEnum):
    """The types agents use; a custom type is any string that matches `[A-Z][A-Z0-9_]*`."""

    AGENT_START = "AGENT_START"
    AGENT_FINISH = "AGENT_FINISH"
    STEP_START = "STEP_START"
    STEP_FINISH = "STEP_FINISH"
    THINKING = "THINKING"
    LLM_CHUNK = "LLM_CHUNK"
    TOOL_CALL_START = "TOOL_CALL_START"
    TOOL_CALL_FINISH = "TOOL_CALL_FINISH"
    PROGRESS = "PROGRESS"
    ERROR = "ERROR"

    __hash__ = str.__hash__  # an enum's own is a Python function, called for each event


TERMINAL_TYPES = frozenset({"AGENT_FINISH", "ERROR"})
"""A run ends with exactly one event of these types, always the last."""

_TYPES = frozenset(StreamEventType)
TYPE_PATTERN = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)

_encode = msgspec.json.Encoder().encode
_BRACE = ord("{")
_QUOTE = ord('"')
_MILLISECONDS = [f".{number:03d}Z" for number in range(1000)]
_second, _second_text = 0, ""


def timestamp() -> str:
    """The time now, as RFC 3339 in UTC with milliseconds and `Z`."""
    global _second, _second_text  # noqa: PLW0603 - formatting a second once instead of for each of its events
    now = time.time()
    second = int(now)
    if second != _second:
        _second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = second
    return _second_text + _MILLISECONDS[int((now - second) * 1000)]


class StreamEvent(Struct):
    """One event of an agent.

    `type` is one of `StreamEventType` or a custom type, `data` a JSON object, `timestamp` RFC 3339 (filled in),
    `metadata` a JSON object beside the data. `id` is given when the event is written to a run's log; an event
    of no run gets a random one when it is first written out. Raises `ValueError` for an ill-formed type.
    """

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    timestamp: str = field(default_factory=timestamp)
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if self.type not in _TYPES and not TYPE_PATTERN.fullmatch(self.type):
            raise ValueError(f"an event's type matches [A-Z][A-Z0-9_]*; {self.type!r} does not")

    def to_sse(self) -> str:
        """The event as an SSE block (WHATWG HTML 9.2.5): `event`, `data` (its `data` alone), `id`, a blank line.

        Raises as `dump`, and `ValueError` for an id that is not one line of printable text.
        """
        self.id = self.id or f"evt-{uuid.uuid4().hex}"
        if not self.id.isprintable():
            raise ValueError("an event's id is one line of printable text")
        return f"event: {self.type}\ndata: {dump(self.data).decode()}\nid: {self.id}\n\n"


class Record(Struct, frozen=True, gc=False):
    """One event of a run, encoded once, and where its parts lie.

    `body` is the JSON object `{"type","data","timestamp","metadata","id"}` in UTF-8 without line breaks,
    `body[start:stop]` the event's data, `last` whether it is the run's terminal event.
    """

    seq: int
    type: str
    body: bytes
    start: int
    stop: int
    last: bool

    @property
    def data(self) -> bytes:
        """The event's data."""
        return self.body[self.start : self.stop]

    @property
    def id(self) -> bytes:
        """The event's id. It is the last value of `body`."""
        return self.body[self.body.rindex(b'"', 0, -2) + 1 : -2]


def event_id(run_id: str, seq: int) -> str:
    """The id of a run's event, which is also the cursor after it."""
    return f"evt-{run_id}-{seq}"


def dump(value: Any) -> bytes:
    """Return `value` as JSON in UTF-8, on one line by anybody's rules.

    U+0085, U+2028 and U+2029 are escaped: some readers end a line there, such as Python's `str.splitlines`, httpx's
    `iter_lines` and JavaScript before ES2019. A lone surrogate, which no UTF-8 can hold, becomes `?`. Raises
    `TypeError`, `ValueError` or `RecursionError` for what is no JSON.
    """
    try:
        body = _encode(value)
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        body = text.encode("utf-8", "replace")
    return body if body.isascii() else _one_line(body)


def _one_line(body: bytes) -> bytes:
    """Escape what some readers take for the end of a line; in JSON it can only be part of a string."""
    if 0xE2 in body:  # a byte is found in a fifth of the time that three take
        body = body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if 0xC2 in body:
        body = body.replace(b"\xc2\x85", b"\\u0085")
    return body


def encode(event: StreamEvent, run_id: str, seq: int) -> Record:
    """The event as number `seq` of a run; its own id is not used.

    Raises as `dump`, and `TypeError` where data or metadata is no JSON object, or the timestamp no text.
    """
    kind = event.type
    try:
        data, timestamp, metadata = _encode(event.data), _encode(event.timestamp), _encode(event.metadata)
    except UnicodeEncodeError:
        data, timestamp, metadata = dump(event.data), dump(event.timestamp), dump(event.metadata)
    if not data.isascii():
        data = _one_line(data)
    if not (timestamp.isascii() and metadata.isascii()):
        timestamp, metadata = _one_line(timestamp), _one_line(metadata)
    if data[0] != _BRACE or metadata[0] != _BRACE or timestamp[0] != _QUOTE:
        raise TypeError("an event's data and metadata are JSON objects, its timestamp is a text")
    body = b'{"type":"%b","data":%b,"timestamp":%b,"metadata":%b,"id":"evt-%b-%d"}' % (
        kind.encode(),
        data,
        timestamp,
        metadata,
        run_id.encode(),
        seq,
    )
    start = 18 + len(kind)  # `{"type":"` and `","data":` around it
    return Record(seq, kind, body, start, start + len(data), kind in TERMINAL_TYPES)


_NONE = msgspec.Raw(b"null")
OUTCOME_BYTES = 4096


class Ending(Struct, frozen=True, gc=False):
    """The data of a terminal event that tells how its run ended, each value as the JSON it is in the event."""

    status: msgspec.Raw = _NONE
    usage: msgspec.Raw = _NONE
    duration: msgspec.Raw = _NONE
    error_type: msgspec.Raw = _NONE
    message: msgspec.Raw = _NONE


class Ended(Ending, frozen=True, gc=False):
    """The same with the result."""

    result: msgspec.Raw = _NONE


class _Ending(Struct):
    data: Ending


class _Ended(Struct):
    data: Ended


_ending = msgspec.json.Decoder(_Ending).decode
_ended = msgspec.json.Decoder(_Ended).decode


def told(ending: Ending) -> dict[str, msgspec.Raw]:
    """Return the values that are not null, by name."""
    values = {name: getattr(ending, name) for name in ending.__struct_fields__}
    return {name: value for name, value in values.items() if memoryview(value).nbytes != 4 or bytes(value) != b"null"}


def outcome(body: bytes) -> bytes:
    """Return what a terminal event's body tells of its run's end but the result: a JSON object, for lists of runs.

    It has `OUTCOME_BYTES` at most: a longer value of an agent's own is left out.
    """
    found = told(_ending(body).data)
    while len(text := dump(found)) > OUTCOME_BYTES:
        del found[max(found, key=lambda name: memoryview(found[name]).nbytes)]
    return text


def ended(body: bytes) -> dict[str, msgspec.Raw]:
    """Return all that a terminal event's body tells of its run's end, the result too, without reading into it."""
    return told(_ended(body).data)


decode = msgspec.json.Decoder(StreamEvent).decode
"""A `StreamEvent` from its JSON (a `Record`'s body, a WebSocket message, SSE data with `envelope=1`)."""
