"""Read bodies, queries and headers strictly. Bad input is an error that names the field."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request
from msgspec import Meta, Struct

from twinwire.protocol.commands import MessageId
from twinwire.protocol.errors import BadRequest, Busy, NotAcceptable, PayloadTooLarge, UnsupportedMediaType
from twinwire.protocol.start import (
    AgentName,
    IdempotencyKey,
    Interrupt,
    Labels,
    Message,
    OnDisconnect,
    Params,
    Parts,
    SessionId,
    Traceparent,
    UserId,
)
from twinwire.protocol.wire import Cursor, check_types, converted, decode_json, parse_after, parse_cursor
from twinwire.transports.intake import TOO_LARGE, Intake
from twinwire.web.answers import quality
from twinwire.web.guard import header
from twinwire.web.query import kept
from twinwire.web.service import Service

T = TypeVar("T", bound=Struct)

_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any = msgspec.json.Decoder()

_JSON = {"params", "metadata", "parts"}  # the fields that are JSON in a query, too

DISCARDED_BYTES = 16 * 2**20  # a body over the limit is read on to here, so that its sender can read the answer


class StartBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /runs`."""

    message: Message
    agent: AgentName = None
    user_id: UserId = None
    session_id: SessionId = None
    on_disconnect: OnDisconnect = None
    idempotency_key: IdempotencyKey = None
    traceparent: Traceparent = None
    params: Params = None
    metadata: Labels = None
    parts: Parts = None
    interrupt: Interrupt = False


class AnswerBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /runs/{run_id}/inputs/{input_id}`."""

    answer: Annotated[Any, Meta(description="what fits the question's schema; of an approval, the decision")]
    message_id: MessageId = None


class MessageBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /runs/{run_id}/messages`."""

    content: Annotated[str, Meta(description="what the run's agent is to read")]
    message_id: MessageId = None


class FollowQuery(Struct, frozen=True, kw_only=True):
    """The query of a request that follows a run over SSE."""

    after: Annotated[str | None, Meta(description="the last event seen: its id, or (of a known run) its number")] = None
    last_event_id: Annotated[
        str | None, Meta(description="the last event seen, for clients that cannot send the header; also lastEventId")
    ] = None
    types: Annotated[str | None, Meta(description="event types to send, with commas between; default all")] = None
    envelope: Annotated[bool, Meta(description="put the whole event in data, as a WebSocket carries it")] = False
    format: Annotated[str, Meta(description="how events look: native, ai-sdk, ag-ui, openai, an app's own")] = "native"

    @property
    def kinds(self) -> frozenset[str] | None:
        """The types to send; None for all. Raises `BadRequest`."""
        return check_types(self.types)


class ChatQuery(FollowQuery, frozen=True, kw_only=True):
    """`/chat` and `/chat/stream`, in the query or, but for `after`, in a JSON body."""

    message: Message | None = None
    stream: Annotated[bool, Meta(description="false: answer with the result alone")] = True
    agent: AgentName = None
    user_id: UserId = None
    session_id: SessionId = None
    on_disconnect: OnDisconnect = None
    idempotency_key: IdempotencyKey = None
    traceparent: Traceparent = None
    params: Params = None
    metadata: Labels = None
    parts: Parts = None


class ChatBody(ChatQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same in a JSON body."""

    types: Annotated[str | Sequence[str] | None, Meta(description="event types to send; default all")] = None  # type: ignore[assignment]


def query(request: Request[Any, Any, Any], shape: type[T]) -> T:
    """Return the query, whose names the guard has checked, as the Struct that the route is documented with."""
    values: dict[str, Any] = dict(kept(request.scope))
    for name in _JSON & values.keys() & set(shape.__struct_fields__):
        values[name] = _value(name, values[name])
    return converted(values, shape, strict=False)


class _Reading:
    """A body that is being read; a `Holder`."""

    def __init__(self, until: asyncio.Timeout) -> None:
        self._until = until
        self.size = 0

    def held(self) -> int:
        """See `Holder`."""
        return self.size

    def shed(self) -> None:
        """See `Holder`."""
        self._until.reschedule(0)


async def body(request: Request[Any, Any, Any], service: Service) -> bytes:
    """Return the whole body, of uncompressed JSON; empty if there is none.

    Raise `PayloadTooLarge`, `UnsupportedMediaType`, and `Busy` if others need the memory before it has all come.
    """
    intake = service.lifetimes.intake
    try:
        async with asyncio.timeout(None) as until:
            reading = _Reading(until)
            try:
                return await _body(request, service.settings.max_body, reading, intake)
            finally:
                intake.forget(reading)
    except TimeoutError:
        raise Busy(TOO_LARGE) from None


async def _body(request: Request[Any, Any, Any], limit: int, reading: _Reading, intake: Intake) -> bytes:
    chunks: list[bytes] = []
    size = 0
    too_large = int(request.headers.get("content-length") or 0) > limit
    while True:
        message: Any = await request.receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The request ended before its body was complete.")
        size += len(message["body"])
        too_large = too_large or size > limit
        if not too_large:
            chunks.append(message["body"])
            reading.size = size
            intake.look(reading)
        if not message["more_body"] or size > DISCARDED_BYTES:
            break
    if too_large:
        raise PayloadTooLarge(f"The body must have at most {limit} bytes.")
    if not size:
        return b""
    if (request.headers.get("content-encoding") or "identity").lower() != "identity":
        raise UnsupportedMediaType(
            "`Content-Encoding` must be `identity`: the server reads no compressed bodies.", field="content-encoding"
        )
    if not re.fullmatch(
        r"application/json\s*(;.*)?", (request.headers.get("content-type") or "").strip(), re.IGNORECASE
    ):
        raise UnsupportedMediaType("`Content-Type` must be `application/json`.", field="content-type")
    return b"".join(chunks)


def struct(data: bytes, shape: type[T]) -> T:
    """Return a body as a Struct. Raise `BadRequest`."""
    return decode_json(data, msgspec.json.Decoder(shape))


def fields(data: bytes) -> dict[str, Any]:
    """Return a body that is an object as it is. Raise `BadRequest`, with the field whose value cannot be read."""
    return {name: _value(name, bytes(value)) for name, value in decode_json(data, _raw).items()}


def _value(name: str, data: bytes | str) -> Any:
    """Return the value of the field of this name, which is JSON. Raise `BadRequest`."""
    try:
        return decode_json(data, _any)
    except BadRequest as error:
        raise BadRequest(f"`{name[:128]}` is not valid. {error.message}", field=name[:128]) from None


def merged(asked: ChatQuery, data: bytes) -> ChatBody:
    """Return a chat's body, whose fields win over those of its query. Raise `BadRequest`."""
    told = struct(data, ChatBody)
    unsaid = set(asked.__struct_fields__) - set(msgspec.json.decode(data))
    return msgspec.structs.replace(told, **{name: getattr(asked, name) for name in unsaid})


def _cursor(request: Request[Any, Any, Any], asked: FollowQuery) -> tuple[str, str | None]:
    """Return the field that has the request's cursor, and its text, or None if there is none.

    EventSource's header (WHATWG HTML, section 9.2.4) wins over `last_event_id`, and that over `after`.
    """
    values = [value for name, value in request.scope["headers"] if name == b"last-event-id"]
    if len(values) > 1:
        raise BadRequest("`Last-Event-ID` must not be there more than once.", field="last-event-id")
    if values:
        return "last-event-id", values[0].decode("latin-1")
    return ("after", asked.after) if asked.last_event_id is None else ("last_event_id", asked.last_event_id)


def chat_cursor(request: Request[Any, Any, Any], asked: FollowQuery) -> Cursor | None:
    """Return the cursor that a request to `/chat*` resumes at, if it has one."""
    field, text = _cursor(request, asked)
    return None if text is None else parse_cursor(text, field)


def run_cursor(request: Request[Any, Any, Any], asked: FollowQuery, run_id: str) -> int:
    """Return the number of the last event seen of this run; 0 without a cursor."""
    field, text = _cursor(request, asked)
    if text is not None and field != "after":
        parse_cursor(text, field)  # a bare number is valid in `after` alone
    return 0 if text is None else parse_after(text, run_id, field)


def accepts_events(request: Request[Any, Any, Any]) -> None:
    """Raise `NotAcceptable` if the client takes no event stream."""
    accept = header(request.scope["headers"], b"accept") or "*/*"
    if not quality(accept, "text/event-stream", "text/*", "*/*"):
        raise NotAcceptable("`Accept` must allow `text/event-stream`, the type of the answer.", field="accept")
