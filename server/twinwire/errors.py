"""Every error Twinwire raises on purpose.

TwinwireError                       500  internal            4500
 · BadRequest                       400  bad_request         4500
    · UnsupportedMediaType          415  unsupported_media_type
    · NotAcceptable                 406  not_acceptable
    · PayloadTooLarge               413  payload_too_large
    · IdempotencyMismatch           422  idempotency_mismatch
 · NotFound                         404  not_found           4504
    · RunNotFound                   404  run_not_found
    · AgentNotFound                 404  agent_not_found
 · CursorGone                       410  gap                 4500
 · SessionBusy                      409  session_busy        4500
 · StaleWriter                      409  stale_writer        4500
 · TooManyRuns                      429  too_many_runs       4029
 · Draining                         503  draining            1012
 · LogUnavailable                   503  log_unavailable     4013
 · RunError                         500  agent_error         4500   what a run's ERROR event tells
    · RunTimeout                    504  timeout
    · UpstreamError                 502  upstream_error
       · UpstreamTimeout            504  upstream_timeout
 · SettingsError                         settings                   a flag or variable; for the command line

Each class carries its HTTP status, its machine code and the WebSocket close code it would close a socket
with (4000-4499: reconnect; 4500-4999: do not). A message is written for whoever sent the bad thing: it never
holds a secret, a path of the server's or the text of an unexpected exception.
"""

from __future__ import annotations

from typing import Any, ClassVar


class TwinwireError(Exception):
    """The root of the tree. `field` names the part of the input that was wrong, if one was."""

    status: ClassVar[int] = 500
    code: str = "internal"
    close_code: ClassVar[int] = 4500

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def payload(self) -> dict[str, Any]:
        """`{"code", "message", "field"?}`: the body of an HTTP error and of a WebSocket `error`."""
        body = {"code": self.code, "message": self.message}
        if self.field is not None:
            body["field"] = self.field
        return body


class BadRequest(TwinwireError):
    status, code = 400, "bad_request"


class UnsupportedMediaType(BadRequest):
    status, code = 415, "unsupported_media_type"


class NotAcceptable(BadRequest):
    status, code = 406, "not_acceptable"


class PayloadTooLarge(BadRequest):
    status, code = 413, "payload_too_large"


class IdempotencyMismatch(BadRequest):
    """The key was used before, for another request."""

    status, code = 422, "idempotency_mismatch"

    def __init__(self) -> None:
        super().__init__("this key was used for a different request", field="idempotency_key")


class NotFound(TwinwireError):
    status, code, close_code = 404, "not_found", 4504


class RunNotFound(NotFound):
    """No such run, a run of somebody else, or no well-formed run id: one answer for all three."""

    code = "run_not_found"

    def __init__(self) -> None:
        super().__init__("no such run")


class AgentNotFound(NotFound):
    code = "agent_not_found"

    def __init__(self) -> None:
        super().__init__("no such agent", field="agent")


class CursorGone(TwinwireError):
    """The cursor points before what is kept, or after what there is. Events `first`..`last` can be had."""

    status, code = 410, "gap"

    def __init__(self, first: int, last: int) -> None:
        super().__init__(f"the cursor cannot be served: the log holds events {first} to {last}")
        self.first = first
        self.last = last

    def payload(self) -> dict[str, Any]:
        return {**super().payload(), "first": self.first, "last": self.last}


class SessionBusy(TwinwireError):
    status, code = 409, "session_busy"

    def __init__(self) -> None:
        super().__init__('a run of this session is still going; "interrupt": true would end it', field="session_id")


class StaleWriter(TwinwireError):
    """The log is elsewhere than the writer thinks: somebody else has ended or taken over the run."""

    status, code = 409, "stale_writer"

    def __init__(self, expected: int, last: int) -> None:
        super().__init__(f"expected the last event to be {expected}, it is {last}")


class TooManyRuns(TwinwireError):
    status, code, close_code = 429, "too_many_runs", 4029

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} runs are going already; try again later")


class Draining(TwinwireError):
    status, code, close_code = 503, "draining", 1012

    def __init__(self) -> None:
        super().__init__("this server is shutting down; ask another or try again")


class LogUnavailable(TwinwireError):
    status, code, close_code = 503, "log_unavailable", 4013

    def __init__(self) -> None:
        super().__init__("the event log cannot be reached; try again later")


class RunError(TwinwireError):
    """Why a run failed, as its ERROR event tells it: `error_type` is `code`, the text is `message`."""

    code = "agent_error"

    def __init__(self, message: str = "the agent failed", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class RunTimeout(RunError):
    """The run reached its deadline."""

    status, code = 504, "timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the run reached its deadline of {seconds:g} s")


class UpstreamError(RunError):
    """The model's server failed; `code` starts with `upstream_`."""

    status, code = 502, "upstream_error"


class UpstreamTimeout(UpstreamError):
    """The model's server was silent for too long."""

    status, code = 504, "upstream_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the model was silent for {seconds:g} s")


class SettingsError(TwinwireError):
    """A setting that cannot be used; `field` is the flag or the environment variable as the user wrote it."""

    code = "settings"

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message
