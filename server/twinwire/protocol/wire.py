"""Run ids, cursors, policies and JSON input, parsed strictly; the blocks of SSE that are no events.

Pure: text in, values out, or an error of `errors` that names the field. The WebSocket's messages are in
`commands`, the frames of events in `formats`.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from twinwire.protocol.errors import BadRequest, RunNotFound
from twinwire.protocol.events import TYPE_PATTERN, event_id

T = TypeVar("T")

MAX_SEQ = 2**63 - 1
MAX_TYPES = 32
MAX_TYPE = 64
HEARTBEAT = b": heartbeat\n\n"

_RUN_ID = re.compile(r"[a-z2-7]{26}", re.ASCII)
_CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_SEQ = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_CURSOR = re.compile(r"evt-([a-z2-7]{26})-(0|[1-9][0-9]{0,18})", re.ASCII)
_SECONDS = re.compile(r"cancel_after:([0-9]{1,6}(?:\.[0-9]{1,3})?)", re.ASCII)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_NAMED = re.compile(r"(?:unknown field|required field) `([^`]*)`")
_AT = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


class Cursor(NamedTuple):
    """A position in a run's log: what comes next is event `seq + 1`."""

    run_id: str
    seq: int


def new_run_id() -> str:
    """128 random bits as 26 characters of lower-case base32 (RFC 4648, section 6) without padding."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def check_run_id(text: str) -> str:
    """Return the run id. Raise `RunNotFound` for an ill-formed one, as for a run that does not exist."""
    if not _RUN_ID.fullmatch(text):
        raise RunNotFound
    return text


def _seq(digits: str, name: str) -> int:
    value = int(digits)
    if value > MAX_SEQ:
        raise BadRequest(f"The number in `{name}` must be at most 2^63 - 1.", field=name)
    return value


def parse_cursor(text: str, field: str) -> Cursor:
    """The cursor in an event id, `evt-<run>-<seq>` in ASCII. Raises `BadRequest` for anything else."""
    match = _CURSOR.fullmatch(text)
    if not match:
        raise BadRequest(f"`{field}` must be an event id of the form `evt-<run>-<number>`.", field=field)
    return Cursor(match[1], _seq(match[2], field))


def parse_after(value: str | int, run_id: str, field: str = "after") -> int:
    """The number of the last event seen, from a number or an event id of this run."""
    text = str(value)
    if _SEQ.fullmatch(text):
        return _seq(text, field)
    cursor = parse_cursor(text, field)
    if cursor.run_id != run_id:
        raise BadRequest(f"`{field}` must be an event id of this run, not of another.", field=field)
    return cursor.seq


def parse_on_disconnect(text: str) -> float | None:
    """Return how long a run may go on with nobody following it: seconds, or None for `continue`."""
    if text == "continue":
        return None
    if text == "cancel":
        return 0.0
    match = _SECONDS.fullmatch(text)
    if not match:
        raise BadRequest(
            "`on_disconnect` must be `continue`, `cancel` or `cancel_after:<seconds>`.", field="on_disconnect"
        )
    return float(match[1])


def check_types(types: str | Sequence[str] | None) -> frozenset[str] | None:
    """Return the event types that a client asks for, in a list or a text with commas; None stands for all.

    Raises `BadRequest` for a name that is none or has over `MAX_TYPE` characters, and for over `MAX_TYPES` names.
    """
    if types is None:
        return None
    if isinstance(types, str):
        types = types.split(",", MAX_TYPES)
    if len(types) > MAX_TYPES:
        raise BadRequest(f"`types` must have at most {MAX_TYPES} names.", field="types")
    for name in types:
        if len(name) > MAX_TYPE or not TYPE_PATTERN.fullmatch(name):
            raise BadRequest(f"`types` must have event types ([A-Z][A-Z0-9_]*), not {name[:64]!r}.", field="types")
    return frozenset(types)


def list_page(created: str, run_id: str) -> str:
    """Return what names the page of a list of runs that begins after this run."""
    return base64.urlsafe_b64encode(f"{created} {run_id}".encode()).decode().rstrip("=")


def parse_page(text: str) -> tuple[str, str]:
    """Return the run after which a page of a list begins: when it was created, and its id. Raise `BadRequest`."""
    try:
        told = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        told = ""
    created, _, run_id = told.partition(" ")
    if not (_CREATED.fullmatch(created) and _RUN_ID.fullmatch(run_id)):
        raise BadRequest("`page` must be the `next` of another page of this list.", field="page")
    return created, run_id


def parse_time(text: str, field: str) -> str:
    """Return a time of RFC 3339 in the form that `created` has. Raise `BadRequest`."""
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            raise ValueError
        return when.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    except (ValueError, OverflowError):
        raise BadRequest(
            f"`{field}` must be a time of RFC 3339, such as 2026-02-21T10:30:45Z; a + is written %2B.", field=field
        ) from None


def sse_open(run_id: str, after: int, retry_ms: int) -> bytes:
    """The first block of an SSE body: it primes EventSource's cursor and is no event itself."""
    return b"retry: %d\nid: %b\n\n" % (retry_ms, event_id(run_id, after).encode())


def check_traceparent(text: str | None) -> str | None:
    """Return what names a span (W3C Trace Context, section 3.2), or None for none. Raise `BadRequest` for others."""
    if text is not None and not _TRACEPARENT.fullmatch(text):
        raise BadRequest(
            "`traceparent` must be of the form `00-<trace>-<span>-<flags>`, of 32, 16 and 2 hexadecimal digits.",
            field="traceparent",
        )
    return text


def trace_of(traceparent: str | None) -> str | None:
    """Return the id of the trace that this span is of, or None if the text names no span."""
    match = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    return None if match is None else match[1]


def http_chunk(frames: Sequence[bytes]) -> bytes:
    """Frames as one chunk of a chunked body (RFC 9112, section 7.1); there is at least one byte in them."""
    body = frames[0] if len(frames) == 1 else b"".join(frames)
    return b"%x\r\n%b\r\n" % (len(body), body)


def http_chunk_parts(frames: Sequence[bytes]) -> Sequence[bytes]:
    """Return the pieces of `http_chunk`, the frames themselves among them."""
    return [b"%x\r\n" % sum(map(len, frames)), *frames, b"\r\n"]


def ws_text_parts(frames: Sequence[bytes]) -> list[bytes]:
    """Return each frame behind its header as one unmasked, unfragmented text message of a server.

    See RFC 6455, section 5.2.
    """
    parts: list[bytes] = []
    for frame in frames:
        size = len(frame)
        if size < 126:
            parts.append(bytes((0x81, size)))
        elif size < 2**16:
            parts.append(b"\x81\x7e" + size.to_bytes(2, "big"))
        else:
            parts.append(b"\x81\x7f" + size.to_bytes(8, "big"))
        parts.append(frame)
    return parts


def ws_text(frames: Sequence[bytes]) -> bytes:
    """Return the same as one piece."""
    return b"".join(ws_text_parts(frames))


def named_error(error: msgspec.ValidationError, within: str = "") -> BadRequest:
    """The same error with the field, `within` another, that msgspec names somewhere in its text; long names are cut."""
    text = str(error)
    named, at = _NAMED.search(text), _AT.search(text)
    path = [part for part in (within, at[1] if at else "", named[1] if named else "") if part]
    field = ".".join(path).replace(".[", "[")[:128]
    return BadRequest(sentence(_AT.sub("", text)[:256], f"`{field}`" if field else "The JSON"), field=field or None)


def sentence(text: str, subject: str) -> str:
    """Return what msgspec says is wrong as a sentence about `subject`, such as "`limit` must be `int` >= 1.".

    What a Struct's own check says is a sentence that stays as it is.
    """
    if text.endswith("."):
        return text
    if text.startswith("Expected "):
        right, _, wrong = text.removeprefix("Expected ").partition(", got ")
        return f"{subject} must be {right}, not {wrong}." if wrong else f"{subject} must be {right}."
    if text.startswith("Object missing required field"):
        return f"{subject} is required."
    if text.startswith("Object contains unknown field"):
        return f"{subject} is not a known field. Leave it out."
    return f"{subject} is not valid: {text[:1].lower()}{text[1:]}."


def converted(value: Any, shape: type[T], *, strict: bool = True, within: str = "") -> T:
    """Return decoded JSON as this type, or the texts of a query if not `strict`.

    Raise `BadRequest` with the field, which is `within` another.
    """
    try:
        return msgspec.convert(value, shape, strict=strict)
    except msgspec.ValidationError as error:
        raise named_error(error, within) from None


def decode_json(data: bytes | str, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a client's JSON. Raises `BadRequest`, whatever is wrong with it, naming the field if one is."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise named_error(error) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"The JSON is malformed: {str(error).removeprefix('JSON is malformed: ')}.") from None
    except RecursionError:
        raise BadRequest("The JSON must not be nested as deeply.") from None
    except (UnicodeError, ValueError):
        raise BadRequest("The JSON must be valid UTF-8.") from None
