"""Something that a run's user says to it, and what becomes of it, as workers pass them to each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

Status = Literal["accepted", "already_answered", "expired", "not_found", "already_finished", "not_accepted"]


class Saying(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message, whose text is `content`, or the `answer` to the question `input_id`. `by` is the user, if known."""

    message_id: str
    by: str | None = None
    content: str | None = None
    input_id: str | None = None
    answer: Any = None

    @property
    def digest(self) -> bytes:
        """A digest of all in which two of the same id must be equal."""
        words = self.content, self.input_id, self.answer
        return hashlib.sha256(msgspec.json.encode(words, order="sorted")).digest()


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a saying. Of an answer to a question that was answered, `by` and `at` tell by whom and when.

    `message_id` is that of the saying, or of the one that has won. `refusal` is the payload of a `TwinwireError`, if
    the saying was refused as one; `status` then means nothing.
    """

    status: Status = "accepted"
    message_id: str = ""
    by: str | None = None
    at: str | None = None
    refusal: dict[str, Any] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The outcome as the client is told it."""
        told = {"message_id": self.message_id, "status": self.status, "by": self.by, "at": self.at}
        return {name: value for name, value in told.items() if value is not None}


class Noted(Struct, frozen=True):
    """The open questions of a run that goes on, each the data of its INPUT_REQUESTED, and whether it waits for them."""

    questions: Sequence[Any] = ()
    waiting: bool = False
