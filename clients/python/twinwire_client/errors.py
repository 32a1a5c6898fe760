"""Every error the client raises on purpose.

TwinwireClientError
 · ConnectionLost       the server could not be reached, attempt after attempt
 · ProtocolError        what came is not what PROTOCOL.md promises
 · ApiError             the server's verdict; trying again would not change it
    · Unauthenticated
    · RunNotFound
    · AgentNotFound
    · SessionBusy       a run of this session is still going
    · Gap               the events after the cursor are kept no longer, or are not there yet
 · RunFailed            the run ended with an ERROR event; only `Run.wait` raises it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TwinwireClientError(Exception):
    """The root of the tree."""


class ConnectionLost(TwinwireClientError):
    """The connection broke and could not be had again."""


class ProtocolError(TwinwireClientError):
    """The other side does not speak the protocol, or lost or repeated an event."""


class ApiError(TwinwireClientError):
    """An error the server answered with (PROTOCOL.md, section 2).

    `code` is its machine code, `field` the part of the input that was wrong, if one was. `status` is the HTTP status
    or the WebSocket close code; None for an error told on a socket that lives on.
    """

    def __init__(self, body: Mapping[str, Any], status: int | None) -> None:
        message = body.get("message") or f"The server answered {status}."
        self.code: str = body.get("code") or "unknown"
        self.field: str | None = body.get("field")
        self.status = status
        super().__init__(message)


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


class RunFailed(TwinwireClientError):
    """The run ended with an ERROR event, with this `error_type`."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"The run failed with {error_type}. {message}")
        self.error_type = error_type
        self.message = message


_KINDS: dict[str, type[ApiError]] = {
    "unauthenticated": Unauthenticated,
    "run_not_found": RunNotFound,
    "agent_not_found": AgentNotFound,
    "session_busy": SessionBusy,
    "gap": Gap,
}


def api_error(body: Mapping[str, Any], status: int | None = None) -> ApiError:
    """The error in the body of an answer, or in an `error` or `gap` reply on a socket."""
    kind = _KINDS.get(body.get("code") or "", ApiError)
    if kind is Gap and not (isinstance(body.get("first"), int) and isinstance(body.get("last"), int)):
        kind = ApiError
    return kind(body, status)
