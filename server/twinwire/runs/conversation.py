"""What the requests of other protocols have in common: they bring the conversation along."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from twinwire.errors import BadRequest
from twinwire.models import Message

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


class Turn(Struct, frozen=True, kw_only=True):
    """What is asked of an agent, as `RunSpec.of` takes it."""

    message: str
    agent: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    on_disconnect: str | None = None
    idempotency_key: str | None = None


def text(content: Any) -> str:
    """The text of a message's content, or of its parts; what is no text, as a file, is left out."""
    if isinstance(content, str):
        return content
    return "".join(
        part["text"]
        for part in (content if isinstance(content, list) else [])
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def question(said: Iterable[tuple[str, str]], limit: int) -> tuple[str, list[Message]]:
    """The last message, which is the user's, and those before it: of `limit` bytes at most, so the oldest go first.

    `said` are roles and texts; messages of other roles, as a tool's, and without a text are left out.
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
