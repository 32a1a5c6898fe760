"""Every error the client raises on purpose.

TwinwireError
 · ConnectionLost       the server could not be reached, attempt after attempt, or it was no use to go on
 · ProtocolError        what came is not what PROTOCOL.md promises
 · ApiError             the server's verdict; trying again would not change it
    · Unauthenticated   there is no token, or it was not accepted
    · RunNotFound
    · AgentNotFound
    · SessionBusy       a run of this session is still going
    · Gap               the events after the cursor are kept no longer, or are not there yet
    · TooLarge          the message is larger than the server accepts
 · RunFailed            the run ended with an ERROR event; only `Run.wait` raises it
 · RunClosed            the run was closed before its end was received

A call that could succeed on no server is a `TypeError`, `ValueError` or `RuntimeError`, such as one on a closed client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinwire_client.wire import STATUSES


class TwinwireError(Exception):
    """The root of the tree."""


class ConnectionLost(TwinwireError):
    """The connection broke and could not be had again. The attributes are those of the last of the `attempts`.

    `code` is the machine code that the server gave (`rate_limited`, `draining`, …), or the client's own:
    `token_failed`, `certificate_not_trusted`, `not_https`, `unknown_host`, `connection_refused`; None for another
    failure of the network. `status` is the HTTP status, on a socket that of the `code`, `retry_after` the seconds that
    the server asked to wait; None if there was none.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after = retry_after
        self.attempts = attempts


class ProtocolError(TwinwireError):
    """The other side does not speak the protocol, or lost or repeated an event."""


class ApiError(TwinwireError):
    """An error the server answered with (PROTOCOL.md, section 2).

    `code` is its machine code, `field` the part of the input that was wrong, if one was. `status` is the HTTP status,
    on a socket that of the `code`; None if it has none. `retry_after` is in how many seconds another try makes sense,
    if the server said so.
    """

    def __init__(self, body: Mapping[str, Any], status: int | None) -> None:
        super().__init__(_text(body, "message") or f"The server answered {status}.")
        self.code = _text(body, "code") or "unknown"
        self.field = _text(body, "field")
        self.status = status or STATUSES.get(self.code)
        after = body.get("retry_after")
        self.retry_after = float(after) if isinstance(after, int | float) else None


class Unauthenticated(ApiError):
    """The server wants a token, or another one."""


class RunNotFound(ApiError):
    """No such run, or somebody else's."""


class AgentNotFound(ApiError):
    """The server has no agent of this name."""


class SessionBusy(ApiError):
    """A run of this session is still going; `interrupt=True` would end it."""


class Gap(ApiError):
    """The cursor cannot be served: the server has events `first` to `last`."""

    def __init__(self, body: Mapping[str, Any], status: int | None) -> None:
        super().__init__(body, status)
        self.first: int = body["first"]
        self.last: int = body["last"]


class TooLarge(ApiError):
    """The message is larger than the server accepts."""


class RunFailed(TwinwireError):
    """The run ended with an ERROR event, with this `error_type`."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"The run failed with {error_type}. {message}")
        self.error_type = error_type
        self.message = message


class RunClosed(TwinwireError):
    """The run was closed, by `aclose`, by leaving its block or with its client, before its end was received.

    A run whose end was received raises it, too, if it is entered once more.
    """


def _text(body: Mapping[str, Any], name: str) -> str | None:
    """A text of a body, which may be that of a server of another kind; None if it has none."""
    value = body.get(name)
    return value if isinstance(value, str) else None


_KINDS: dict[str, type[ApiError]] = {
    "unauthenticated": Unauthenticated,
    "run_not_found": RunNotFound,
    "agent_not_found": AgentNotFound,
    "session_busy": SessionBusy,
    "gap": Gap,
    "payload_too_large": TooLarge,
}
_BY_STATUS = {401: Unauthenticated, 413: TooLarge}


def api_error(body: Mapping[str, Any], status: int | None = None) -> ApiError:
    """The error in the body of an answer, or in an `error` or `gap` reply on a socket."""
    kind = _BY_STATUS.get(status or 0) or _KINDS.get(_text(body, "code") or "", ApiError)
    if kind is Gap and not (isinstance(body.get("first"), int) and isinstance(body.get("last"), int)):
        kind = ApiError
    return kind(body, status)
