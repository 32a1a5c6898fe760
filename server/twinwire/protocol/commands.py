"""The WebSocket's control messages (PROTOCOL.md, "WebSocket"): commands parsed strictly, replies written.

Pure. Control types are lower case, the types of events upper case, so that the two never meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from twinwire.protocol import start
from twinwire.protocol.errors import BadRequest, TwinwireError
from twinwire.protocol.events import dump
from twinwire.protocol.wire import decode_json

RunName = Annotated[str, Meta(max_length=128)]
MessageId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")] | None
"""The idempotency key of an answer or a message; the server makes one if there is none."""


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """A command; `ref` is echoed in its reply. The scope that it needs is in `auth.scopes.COMMANDS`."""

    ref: Annotated[str, Meta(max_length=128)] | int | None = None


class Start(Command, frozen=True, kw_only=True):
    """Start a run and follow it from its first event."""

    request_id: start.Name
    message: start.Message
    agent: start.AgentName = None
    user_id: start.UserId = None
    session_id: start.SessionId = None
    on_disconnect: start.OnDisconnect = None
    idempotency_key: start.IdempotencyKey = None
    traceparent: start.Traceparent = None
    params: start.Params = None
    metadata: start.Labels = None
    parts: start.Parts = None
    interrupt: start.Interrupt = False
    types: Sequence[str] | None = None


class Attach(Command, frozen=True, kw_only=True):
    """Follow a run from the event after `after`, a number or an event id, or after a snapshot of it."""

    run_id: RunName
    after: int | str = 0
    snapshot: bool = False
    types: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.snapshot and self.after != 0:
            raise ValueError("`snapshot` takes the place of `after`: send one of the two.")


class Detach(Command, frozen=True, kw_only=True):
    """Stop following a run on this socket; with `leave` for good, so that no grace is waited for."""

    run_id: RunName
    leave: bool = False


class Pause(Command, frozen=True, kw_only=True):
    """Send no more events of a run that this socket follows, until `resume`."""

    run_id: RunName


class Resume(Command, frozen=True, kw_only=True):
    """Send the events of a paused run again, from its cursor or after `after`, a number or an event id."""

    run_id: RunName
    after: int | str | None = None


class Cancel(Command, frozen=True, kw_only=True):
    """Cancel a run, named by its id or by the `request_id` it was started with on this socket."""

    run_id: RunName | None = None
    request_id: start.Name | None = None

    def __post_init__(self) -> None:
        if (self.run_id is None) == (self.request_id is None):
            raise ValueError("Exactly one of `run_id` and `request_id` is required.")


class Answer(Command, frozen=True, kw_only=True):
    """Answer a question of a run."""

    run_id: RunName
    input_id: RunName
    answer: Any
    message_id: MessageId = None


class Send(Command, frozen=True, kw_only=True):
    """Say something to a run that goes on."""

    run_id: RunName
    content: str
    message_id: MessageId = None


class Auth(Command, frozen=True, kw_only=True):
    """Say who one is."""

    token: str

    def __repr__(self) -> str:
        return "Auth(token=***)"


class Ping(Command, frozen=True, kw_only=True):
    """Ask for a `pong`."""


AnyCommand = Start | Attach | Detach | Pause | Resume | Cancel | Answer | Send | Auth | Ping

_decoder: msgspec.json.Decoder[AnyCommand] = msgspec.json.Decoder(AnyCommand)


def decode_command(text: str) -> AnyCommand:
    """The command in a message. Raises `BadRequest`."""
    return decode_json(text, _decoder)


def reply(kind: str, ref: str | int | None = None, **fields: Any) -> bytes:
    """A reply of type `kind`; fields that are None are left out."""
    body = {"type": kind, **fields, "ref": ref}
    return dump({name: value for name, value in body.items() if value is not None})


def error_reply(error: TwinwireError, **fields: Any) -> bytes:
    """`{"type":"error","code","message","field"?,…}`."""
    return reply("error", **{**error.payload(), **fields})


def labels(text: str, *names: str) -> dict[str, Any]:
    """Return a message's `ref`, `request_id` and these other labels, if it has them, for its error to carry."""
    try:
        message = decode_json(text, msgspec.json.Decoder(dict[str, Any]))
    except BadRequest:
        return {}
    found = {name: message.get(name) for name in (*names, "request_id", "ref")}
    return {name: value for name, value in found.items() if type(value) in {str, int} and len(str(value)) <= 128}
