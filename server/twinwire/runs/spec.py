"""The specification of a run, whichever way the start came."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from twinwire.auth import Identity, Scope
from twinwire.log import SessionKey
from twinwire.models import Message
from twinwire.protocol.errors import BadRequest
from twinwire.protocol.start import DEFAULT_ON_DISCONNECT
from twinwire.protocol.wire import check_traceparent, parse_on_disconnect


class Asked(Protocol):
    """The fields that every way to ask for a run has."""

    @property
    def message(self) -> str | None: ...  # noqa: D102
    @property
    def agent(self) -> str | None: ...  # noqa: D102
    @property
    def user_id(self) -> str | None: ...  # noqa: D102
    @property
    def session_id(self) -> str | None: ...  # noqa: D102
    @property
    def on_disconnect(self) -> str | None: ...  # noqa: D102
    @property
    def idempotency_key(self) -> str | None: ...  # noqa: D102
    @property
    def traceparent(self) -> str | None: ...  # noqa: D102


class RunSpec(Struct, frozen=True, kw_only=True):
    """The specification of a run.

    `orphan_timeout` is the number of seconds that it may go on with nobody following it, None for no limit.
    `can_ask` is false for one whose caller waits for the result, and so could not answer the agent.
    `one_off` is a conversation of its own, whoever the user is. `history` is the conversation before, oldest first, of
    one who has brought it; None for the session's. `traceparent` is the span that the start names as its parent (W3C
    Trace Context), None for that of the request.
    """

    message: str
    agent: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    orphan_timeout: float | None = None
    idempotency_key: str | None = None
    traceparent: str | None = None
    interrupt: bool = False
    one_off: bool = False
    can_ask: bool = True
    history: Sequence[Message] | None = None

    @property
    def session(self) -> SessionKey | None:
        """The conversation it is part of; without user and session it is one of its own."""
        return None if self.one_off or not (self.user_id or self.session_id) else (self.user_id, self.session_id)

    def fingerprint(self, agent: str) -> str:
        """Return what a start that repeats this idempotency key must be equal in; empty without a key."""
        if self.idempotency_key is None:
            return ""
        return hashlib.sha256(msgspec.json.encode([agent, self.message, self.session_id])).hexdigest()

    @classmethod
    def of(
        cls,
        asked: Asked,
        by: Identity,
        *,
        interrupt: bool,
        on_disconnect: str = DEFAULT_ON_DISCONNECT,
        can_ask: bool = True,
    ) -> RunSpec:
        """Return what `asked` asks for on behalf of `by`. `on_disconnect` is the policy if it names none.

        Raises `BadRequest`, and `Forbidden` for who may start nothing.
        """
        by.check(Scope.WHOLE)
        if asked.message is None or not asked.message.strip():
            raise BadRequest("`message` is required, and must not be blank.", field="message")
        return cls(
            message=asked.message,
            agent=asked.agent,
            user_id=by.named(asked.user_id),
            session_id=asked.session_id,
            orphan_timeout=parse_on_disconnect(asked.on_disconnect or on_disconnect),
            idempotency_key=asked.idempotency_key,
            interrupt=interrupt,
            can_ask=can_ask,
            one_off=asked.user_id is None and asked.session_id is None,
            traceparent=check_traceparent(asked.traceparent),
        )
