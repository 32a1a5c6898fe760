"""The specification of a run, whichever way the start came."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from twinwire.agents import AgentLimits, RunRequest
from twinwire.auth import Identity, Scope
from twinwire.log import RunInfo, SessionKey
from twinwire.models import Message
from twinwire.protocol.errors import BadRequest
from twinwire.protocol.parts import Part, content, noted
from twinwire.protocol.start import DEFAULT_ON_DISCONNECT, check_labels, check_params
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
    @property
    def params(self) -> dict[str, Any] | None: ...  # noqa: D102
    @property
    def metadata(self) -> dict[str, Any] | None: ...  # noqa: D102
    @property
    def parts(self) -> Sequence[dict[str, Any]] | None: ...  # noqa: D102


class RunSpec(Struct, frozen=True, kw_only=True):
    """The specification of a run.

    `orphan_timeout` is the number of seconds that it may go on with nobody following it, None for no limit. If the
    start has not named that (`by_default`), what the agent's own policy says counts instead.
    `can_ask` is false for one whose caller waits for the result, and so could not answer the agent.
    `one_off` is a conversation of its own, whoever the user is. `history` is the conversation before, oldest first, of
    one who has brought it; None for the session's. `traceparent` is the span that the start names as its parent (W3C
    Trace Context), None for that of the request. `params`, `metadata`, `parts` and `headers` are as `RunRequest` has
    them.
    """

    message: str
    agent: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    orphan_timeout: float | None = None
    by_default: bool = False
    idempotency_key: str | None = None
    traceparent: str | None = None
    interrupt: bool = False
    one_off: bool = False
    can_ask: bool = True
    history: Sequence[Message] | None = None
    params: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    parts: list[Part] = []
    headers: dict[str, str] = {}

    @property
    def session(self) -> SessionKey | None:
        """The conversation it is part of; without user and session it is one of its own."""
        return None if self.one_off or not (self.user_id or self.session_id) else (self.user_id, self.session_id)

    @property
    def noted(self) -> str:
        """The message as the session's history keeps it: the texts, and a note for each image and file."""
        return noted(self.message, self.parts)

    @property
    def given(self) -> Message:
        """All that the agent is given with this start, for the memory that it takes to be counted."""
        more = [self.parts, self.params, self.headers]
        return {"role": "user", "content": [self.message, *more] if any(more) else self.message}

    def request(self, info: RunInfo, history: Sequence[Message], limits: AgentLimits, tokens: int | None) -> RunRequest:
        """Return what the agent is asked; its conversation may be changed without changing anybody else's."""
        return RunRequest(
            message=self.message,
            run_id=info.run_id,
            user_id=info.user_id,
            session_id=info.session_id,
            history=[dict(message) for message in history],
            limits=limits,
            run_tokens=tokens,
            params=dict(self.params),
            metadata=dict(info.metadata),
            parts=list(self.parts),
            headers=dict(self.headers),
        )

    def fingerprint(self, agent: str) -> str:
        """Return what a start that repeats this idempotency key must be equal in; empty without a key."""
        if self.idempotency_key is None:
            return ""
        more = [self.params, self.metadata, self.parts]
        start = [agent, self.message, self.session_id, *(more if any(more) else ())]
        return hashlib.sha256(msgspec.json.encode(start, order="sorted")).hexdigest()

    @classmethod
    def of(
        cls,
        asked: Asked,
        by: Identity,
        *,
        interrupt: bool,
        on_disconnect: str = DEFAULT_ON_DISCONNECT,
        can_ask: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> RunSpec:
        """Return what `asked` asks for on behalf of `by`.

        `on_disconnect` is the policy if neither `asked` nor the agent has one. `headers` are those of its request that
        agents may read. Raises `BadRequest`, and `Forbidden` for who may start nothing.
        """
        by.check(Scope.WHOLE)
        message, parts = content(asked.message or "", asked.parts)
        if not message.strip() and all(part["type"] == "text" for part in parts):
            raise BadRequest("`message` is required, and must not be blank.", field="message")
        return cls(
            message=message,
            agent=asked.agent,
            user_id=by.named(asked.user_id),
            session_id=asked.session_id,
            orphan_timeout=parse_on_disconnect(asked.on_disconnect or on_disconnect),
            by_default=not asked.on_disconnect,
            idempotency_key=asked.idempotency_key,
            interrupt=interrupt,
            can_ask=can_ask,
            one_off=asked.user_id is None and asked.session_id is None,
            traceparent=check_traceparent(asked.traceparent),
            params=check_params(asked.params),
            metadata=check_labels(asked.metadata),
            parts=parts,
            headers=dict(headers or {}),
        )
