"""The event: what an agent yields, and the one encoding of it that every connection sends.

Only types and bytes: no I/O, no asyncio. `wire` has the form of cursors, commands and replies.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from twinwire.protocol.names import meant
from twinwire.protocol.values import builtin


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
    INPUT_REQUESTED = "INPUT_REQUESTED"
    INPUT_ANSWERED = "INPUT_ANSWERED"
    USER_MESSAGE = "USER_MESSAGE"
    RUN_RESUMED = "RUN_RESUMED"
    ERROR = "ERROR"

    __hash__ = str.__hash__  # an enum's own is a Python function, called for each event


TERMINAL_TYPES = frozenset({"AGENT_FINISH", "ERROR"})
"""A run ends with exactly one event of these types, always the last."""

INPUT_TYPES = frozenset({"INPUT_REQUESTED", "INPUT_ANSWERED", "USER_MESSAGE"})
"""The types of questions to the user, their answers, and messages to the run. A take-over never voids them."""

OWN_TYPES = INPUT_TYPES | {"RUN_RESUMED"}
"""The types of the events that a run writes itself: no agent emits them."""

_TYPES = frozenset(StreamEventType)
TYPE_PATTERN = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)

_encode = msgspec.json.Encoder(enc_hook=builtin).encode
_BRACE = ord("{")
_QUOTE = ord('"')
_MILLISECONDS = [f".{number:03d}Z" for number in range(1000)]
_second, _second_text, _newest = 0, "", ""


def timestamp() -> str:
    """The time now, as RFC 3339 in UTC with milliseconds and `Z`."""
    global _second, _second_text, _newest  # noqa: PLW0603 - formatting a second once, and not reading it again
    now = time.time()
    second = int(now)
    if second != _second:
        _second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = second
    _newest = _second_text + _MILLISECONDS[int((now - second) * 1000)]
    return _newest


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
            raise ValueError(f"An event's `type` must match [A-Z][A-Z0-9_]*, not {self.type!r}.")

    def to_sse(self) -> str:
        """The event as an SSE block (WHATWG HTML 9.2.5): `event`, `data` (its `data` alone), `id`, a blank line.

        Raises as `dump`, and `ValueError` for an id that is not one line of printable text.
        """
        self.id = self.id or f"evt-{uuid.uuid4().hex}"
        if not self.id.isprintable():
            raise ValueError("An event's `id` must be one line of printable text.")
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
    `iter_lines` and JavaScript before ES2019. A lone surrogate, which no UTF-8 can hold, becomes `?`; NaN and the
    infinities, which are no JSON, become null; `values.builtin` has what is taken beside JSON. Raises `TypeError`,
    `ValueError` or `RecursionError` for what else is no JSON, and whatever the value's own methods raise.
    """
    try:
        body = _encode(value)
    except UnicodeEncodeError:
        body = _encode(_without_surrogates(msgspec.to_builtins(value, str_keys=True, enc_hook=builtin)))
    return body if body.isascii() else _one_line(body)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return [_without_surrogates(item) for item in value] if isinstance(value, list | tuple) else value


def _one_line(body: bytes) -> bytes:
    """Escape what some readers take for the end of a line; in JSON it can only be part of a string."""
    if 0xE2 in body:  # a byte is found in a fifth of the time that three take
        body = body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if 0xC2 in body:
        body = body.replace(b"\xc2\x85", b"\\u0085")
    return body


def encode(event: StreamEvent, run_id: str, seq: int) -> Record:
    """The event as number `seq` of a run; its own id is not used.

    Raises as `dump`, and `TypeError` if data or metadata is no JSON object, or the timestamp no text.
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
        raise TypeError("An event's `data` and `metadata` must be JSON objects, its `timestamp` a text.")
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


def restored(seq: int, kind: str, body: bytes, start: int, stop: int) -> Record:
    """Return the record whose parts a log has kept.

    Raises `ValueError` unless the data lie where `encode` puts them, and `TypeError` or `AttributeError` for a body
    that is no bytes. The data are not read.
    """
    if not (start == 18 + len(kind) < stop and body.startswith(b',"timestamp":"', stop) and body[start] == _BRACE):
        raise ValueError("The bytes must be an event.")
    return Record(seq, kind, body, start, stop, kind in TERMINAL_TYPES)


OUTCOME_BYTES = 4096
_ENDING = ("status", "usage", "duration", "error_type", "message", "reason")
"""The data of a terminal event that tells how its run ended, beside the result."""


class _Terminal(Struct):
    data: dict[str, msgspec.Raw]


_terminal = msgspec.json.Decoder(_Terminal).decode


def _told(body: bytes, *names: str) -> dict[str, msgspec.Raw]:
    """Return these data of a terminal event that are not null, each as the JSON that it is in the event."""
    data = _terminal(body).data
    found = {name: data[name] for name in names if name in data}
    return {name: value for name, value in found.items() if memoryview(value).nbytes != 4 or bytes(value) != b"null"}


def outcome(body: bytes) -> bytes:
    """Return what a terminal event's body tells of its run's end but the result: a JSON object, for lists of runs.

    It has `OUTCOME_BYTES` at most: a longer value of an agent's own is left out.
    """
    found = _told(body, *_ENDING)
    while len(text := dump(found)) > OUTCOME_BYTES:
        del found[max(found, key=lambda name: memoryview(found[name]).nbytes)]
    return text


class _Outcome(Struct):
    status: str = "error"


_outcome = msgspec.json.Decoder(_Outcome).decode


def status_of(told: bytes) -> str:
    """Return the status of a run whose `outcome` this is; it is empty before the end."""
    return _outcome(told).status if told else "running"


def ended(body: bytes) -> dict[str, msgspec.Raw]:
    """Return all that a terminal event's body tells of its run's end, the result too, without reading into it."""
    return _told(body, *_ENDING, "result")


decode = msgspec.json.Decoder(StreamEvent).decode
"""A `StreamEvent` from its JSON (a `Record`'s body, a WebSocket message, SSE data with `envelope=1`)."""

_COUNTS = "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens", "voided_tokens"
_USAGE: Any = msgspec.defstruct("usage", [(name, int | UnsetType, UNSET) for name in _COUNTS])

_TABLE: dict[str, dict[str, Any]] = {
    "AGENT_START": {"input": str | None, "config": dict, "max_steps": float | None},
    "STEP_START": {"step": float, "max_steps": float | None},
    "STEP_FINISH": {"step": float, "action": str},
    "THINKING": {"content": str},
    "LLM_CHUNK": {"content": str, "delta": str},
    "TOOL_CALL_START": {"tool_call_id": str, "tool_name": str, "parameters": dict},
    "TOOL_CALL_FINISH": {
        "tool_call_id": str,
        "tool_name": str,
        "status": Annotated[str, Meta(pattern="^(ok|error)$")],
        "duration": float,
    },
    "PROGRESS": {"progress": Annotated[float, Meta(ge=0, le=100)], "step": float | None, "total": float | None},
    "INPUT_REQUESTED": {
        "input_id": str,
        "kind": Annotated[str, Meta(pattern="^(approval|question)$")],
        "prompt": str,
        "schema": dict | None,
        "expires_at": str | None,
        "tool_call_id": str,
        "tool_name": str,
        "parameters": dict,
    },
    "INPUT_ANSWERED": {"input_id": str, "message_id": str, "by": str | None, "expired": bool},
    "USER_MESSAGE": {"content": str, "message_id": str, "by": str | None},
    "RUN_RESUMED": {
        "epoch": Annotated[int, Meta(ge=1)],
        "step": float | None,
        "void_after": int | None,
        "text": str,
        "thinking": str,
    },
    "AGENT_FINISH": {
        "duration": float | None,
        "status": str | None,
        "finish_reason": str | None,
        "usage": _USAGE | None,
        "reason": str | None,
    },
    "ERROR": {
        "error_type": str | None,
        "message": str | None,
        "error": str | None,
        "retry_after": float | None,
        "usage": _USAGE | None,
        "reason": str | None,
    },
}
"""PROTOCOL.md's table: what the data's keys hold. A key may be left out; one that is not named here holds any JSON."""


def _reader(kind: str, keys: dict[str, Any]) -> Callable[[bytes], object]:
    fields = [(name, type_ | UnsetType, UNSET) for name, type_ in keys.items()]
    return msgspec.json.Decoder(msgspec.defstruct(kind, fields)).decode


_check_data = {kind: _reader(kind, keys) for kind, keys in _TABLE.items()}
_keys = {kind: {*keys} for kind, keys in _TABLE.items()}
_keys["TOOL_CALL_FINISH"].add("result")  # any JSON
_keys["AGENT_FINISH"].add("result")
_check_metadata = _reader("metadata", {"step": float})
_read = msgspec.json.Decoder(dict[str, Any]).decode
_TIMESTAMP = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z", re.ASCII
)
MAX_DEPTH = 100
"""The depth to which objects and arrays may be nested: some JSON parsers refuse more."""


class NotAnEvent(ValueError):
    """An agent's event breaks PROTOCOL.md's section 1. The message names the type, the key, and what would be right."""


def chunk_text(event: StreamEvent) -> str | None:
    """Return the increment of a plain LLM_CHUNK: one that `checked` would return as it is. Else return None."""
    if event.type == "LLM_CHUNK" and (event.timestamp is _newest or _is_timestamp(event.timestamp)):
        data: Any = event.data
        metadata: Any = event.metadata
        try:
            text = data["content"]
            if (
                ((delta := data["delta"]) is text or type(delta) is str)
                and type(text) is str
                and type(data) is dict
                and len(data) == 2
                and type(metadata) is dict
                and (not metadata or (type(metadata["step"]) is int and len(metadata) == 1))
            ):
                return text
        except (KeyError, TypeError):
            pass
    return None


def checked(event: StreamEvent) -> StreamEvent:
    """Return the event as a run's log takes it: as PROTOCOL.md's section 1 says, and plain JSON.

    Raises `NotAnEvent`, and whatever the agent's own objects raise.
    """
    told: Any = event.type
    if not (isinstance(told, str) and TYPE_PATTERN.fullmatch(told)):
        raise NotAnEvent("An event's `type` must be a text that matches [A-Z][A-Z0-9_]*.")
    kind = str.__str__(told)  # not a subclass of somebody's
    data: Any = event.data
    if kind == "LLM_CHUNK" and isinstance(data, dict) and ("content" in data) != ("delta" in data):
        increment = data.get("content", data.get("delta"))
        data = {**data, "content": increment, "delta": increment}
    data = _part(kind, "data", data, _check_data.get(kind))
    if (keys := _keys.get(kind)) is not None and not data.keys() <= keys:
        _check_spelling(kind, data, keys)
    if kind == "LLM_CHUNK" and "content" not in data:
        raise NotAnEvent("The `data` of LLM_CHUNK must have `content`, the increment of the answer.")
    return StreamEvent(
        kind,
        data,
        _time(kind, event.timestamp),
        _part(kind, "metadata", event.metadata, _check_metadata),
    )


def _part(kind: str, name: str, value: Any, check: Callable[[bytes], object] | None) -> dict[str, Any]:
    """Return an event's data or metadata as plain JSON. Raises `NotAnEvent`."""
    try:
        encoded = dump(value)
        if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH and _depth(encoded) > MAX_DEPTH:
            raise NotAnEvent(f"The `{name}` of {kind} must be nested at most {MAX_DEPTH} deep.")
        if check is not None:
            check(encoded)
        return _read(encoded)
    except msgspec.ValidationError as error:
        raise NotAnEvent(f"The `{name}` of {kind} breaks the protocol's table: {error}.") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, NotAnEvent):
            raise
        raise NotAnEvent(f"The `{name}` of {kind} must be a JSON object: {str(error).removesuffix('.')}.") from None


def _check_spelling(kind: str, data: dict[str, Any], known: set[str]) -> None:
    """Raise `NotAnEvent` for a key of an agent's own that looks like a known one, which the event does not have."""
    absent = known - data.keys()
    for name in data.keys() - known:
        if (right := meant(name, absent)) is not None:
            raise NotAnEvent(f"The `data` of {kind} has a key {name[:64]!r}. The right name is `{right}`.")


def _depth(encoded: bytes) -> int:
    """Return how deep this JSON is nested."""
    depth = deepest = 0
    for bracket in re.findall(rb'"(?:[^"\\]|\\.)*"|[][{}]', encoded):
        if bracket in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in (b"]", b"}"):
            depth -= 1
    return deepest


def _is_timestamp(told: Any) -> bool:
    return type(told) is str and _TIMESTAMP.fullmatch(told) is not None


def _time(kind: str, told: Any) -> str:
    """Return a time as PROTOCOL.md has it, from any of RFC 3339."""
    if _is_timestamp(told):
        return str(told)
    try:
        when = datetime.fromisoformat(told)
        if when.tzinfo is not None:
            return when.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    except (TypeError, ValueError, OverflowError):
        pass
    raise NotAnEvent(f"The `timestamp` of {kind} must be a time of RFC 3339, such as 2026-02-21T10:30:45.123Z.")
