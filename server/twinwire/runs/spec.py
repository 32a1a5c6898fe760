"""What somebody wants run, whichever way it was asked for."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from twinwire.errors import BadRequest
from twinwire.wire import parse_on_disconnect


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


class RunSpec(Struct, frozen=True, kw_only=True):
    """What somebody wants run. `linger` is for how many seconds it may go on with nobody following, None for ever."""

    message: str
    agent: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    linger: float | None = None
    idempotency_key: str | None = None
    interrupt: bool = False

    @classmethod
    def of(cls, asked: Asked, on_disconnect: str, *, interrupt: bool) -> RunSpec:
        """What `asked` asks for; `on_disconnect` is the policy where it names none. Raises `BadRequest`."""
        if asked.message is None or not asked.message.strip():
            raise BadRequest("a message is needed", field="message")
        return cls(
            message=asked.message,
            agent=asked.agent,
            user_id=asked.user_id,
            session_id=asked.session_id,
            linger=parse_on_disconnect(asked.on_disconnect or on_disconnect),
            idempotency_key=asked.idempotency_key,
            interrupt=interrupt,
        )
