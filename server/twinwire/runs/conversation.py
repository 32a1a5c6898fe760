"""What the requests of other protocols have in common: they bring the conversation along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from twinwire.auth import Identity
from twinwire.commands import Name
from twinwire.errors import BadRequest
from twinwire.models import Message
from twinwire.runs.spec import DEFAULT_ON_DISCONNECT, RunSpec

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


class Options(Struct, frozen=True, kw_only=True):
    """What an app may add to another protocol's own requests."""

    agent: Annotated[str | None, Meta(description="the agent's name; default react")] = None
    user_id: Annotated[Name | None, Meta(description="names the user where authentication is off")] = None
    on_disconnect: Annotated[
        str | None, Meta(description="when nobody follows: continue, cancel or cancel_after:<seconds>")
    ] = None


class _Turn(Options, frozen=True, kw_only=True):
    """What is asked of an agent, as `RunSpec.of` takes it."""

    message: str
    session_id: str | None = None
    idempotency_key: str | None = None


Said = Iterable[tuple[str, str]]
"""Roles and texts, in order."""


def answer(
    said: Said, limit: int, by: Identity, options: Options, *, session_id: str | None = None, key: str | None = None
) -> RunSpec:
    """The run that answers a conversation, of which `limit` bytes count; the session's run that goes on it interrupts.

    `key` is an idempotency key. Raises `BadRequest` and `Forbidden`.
    """
    message, history = question(said, limit)
    named = {name: getattr(options, name) for name in Options.__struct_fields__}
    turn = _Turn(message=message, session_id=session_id, idempotency_key=key, **named)
    spec = RunSpec.of(turn, by, DEFAULT_ON_DISCONNECT, interrupt=True)
    return msgspec.structs.replace(spec, history=history)


def spoken(messages: Iterable[Mapping[str, Any]]) -> Said:
    """What these messages say, which have a `role` and a `content` each."""
    return ((str(message.get("role")), text(message.get("content"))) for message in messages)


def text(content: Any) -> str:
    """The text of a message's content, or of its parts; what is no text, as a file, is left out."""
    if isinstance(content, str):
        return content
    return "".join(
        part["text"]
        for part in (content if isinstance(content, list) else [])
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def question(said: Said, limit: int) -> tuple[str, list[Message]]:
    """The last message, which is the user's, and those before it: of `limit` bytes at most, so the oldest go first.

    Messages of other roles, as a tool's, and without a text are left out.
    Raises `BadRequest`.
    """
    known = [(_ROLES[role], words) for role, words in said if role in _ROLES and words.strip()]
    if not known or known[-1][0] != "user":
        raise BadRequest("the last message is the user's, and has a text", field="messages")
    history: list[Message] = []
    for role, words in reversed(known[:-1]):
        limit -= len(words.encode("utf-8", "replace"))
        if limit < 0:
            break
        history.insert(0, {"role": role, "content": words})
    return known[-1][1], history
