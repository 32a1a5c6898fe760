"""Every error Twinwire raises on purpose.

TwinwireError                       500  internal            4500
 · BadRequest                       400  bad_request         4500
    · UnsupportedMediaType          415  unsupported_media_type
    · NotAcceptable                 406  not_acceptable
    · PayloadTooLarge               413  payload_too_large
    · HeadTooLarge                  431  head_too_large
    · RequestTimeout                408  request_timeout
    · UpgradeRequired               426  upgrade_required
    · UnknownCoding                 501  not_implemented
    · IdempotencyMismatch           422  idempotency_mismatch
       · MessageMismatch            422  idempotency_mismatch
 · Unauthenticated                  401  unauthenticated     4501
 · Forbidden                        403  forbidden           4503
    · OriginNotAllowed              403  origin_not_allowed
 · BadHost                          421  bad_host            4500
 · NotFound                         404  not_found           4504
    · RunNotFound                   404  run_not_found
    · AgentNotFound                 404  agent_not_found
    · InputNotFound                 404  input_not_found
 · CursorGone                       410  gap                 4500
 · SessionBusy                      409  session_busy        4500
 · NotTaken                         409                      4500   what was said to a run
    · InputClosed                        input_expired
    · RunEnded                           run_ended
    · NotAccepted                        not_accepted
 · StaleWriter                      409  stale_writer        4500
 · TooManyRuns                      429  too_many_runs       4029   with `retry_after`
    · TooManyWaiting                429  too_many_runs
    · RateLimited                   429  rate_limited
    · TooManyConnections            429  too_many_connections
 · TooManyFollowed                  429  too_many_followed   4029
 · TooManyMessages                  429  too_many_messages   4029
 · Draining                         503  draining            1012
 · LogUnavailable                   503  log_unavailable     4013
    · LogLost                       503  log_unavailable     4013   until the server is restarted
 · Busy                             503  busy                4013
 · ModelUnavailable                 503  model_unavailable   4013   of /readyz alone
 · RunsUnavailable                  503  runs_unavailable    4013   of /readyz alone
 · UnknownOutcome                   504  unknown_outcome     4013
 · FailedDependency                 424  the error_type      4500   a run began and has no result
    · ContextTooLong                400  upstream_context_length
 · RunError                              agent_error                what a run's ERROR event tells
    · RunTimeout                         timeout
    · RunInterrupted                     interrupted
    · InputExpired                       input_expired
    · InputNotPossible                   input_not_possible
    · BudgetSpent                        budget
    · UpstreamError                      upstream_error
       · UpstreamTimeout                 upstream_timeout
 · SettingsError                         settings                   a flag or variable; for the command line

Each class carries its HTTP status, its machine code and the WebSocket close code it would close a socket
with (4000-4499: reconnect; 4500-4999: do not). A message is written for whoever sent the bad thing: it never
holds a secret, a path of the server's or the text of an unexpected exception.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar


class TwinwireError(Exception):
    """The root of the tree. `field` names the part of the input that was wrong, if one was.

    `message` is whole sentences that name the field themselves: nothing is put before them. Many classes have a message
    of their own, which an argument replaces. `retry_after` is in whole seconds.
    """

    status: ClassVar[int] = 500
    code: str = "internal"
    close_code: ClassVar[int] = 4500
    message: str = "The server had an internal error."
    field: str | None = None
    retry_after: int | None = None

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        self.message = self.message if message is None else message
        self.field = field or self.field
        super().__init__(self.message)

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


class HeadTooLarge(BadRequest):
    status, code = 431, "head_too_large"

    def __init__(self, size: int, fields: int) -> None:
        super().__init__(f"The request's head must have at most {size} bytes and {fields} fields.")


class RequestTimeout(BadRequest):
    status, code = 408, "request_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request must be complete within {seconds:g} s.")


class UpgradeRequired(BadRequest):
    status, code = 426, "upgrade_required"


class UnknownCoding(BadRequest):
    """A body in a transfer coding that the server does not decode (RFC 9112, section 6.1)."""

    status, code = 501, "not_implemented"


class IdempotencyMismatch(BadRequest):
    """The key was used before, for another request."""

    status, code = 422, "idempotency_mismatch"
    message = "`idempotency_key` was used for a different request. Send a new key."
    field = "idempotency_key"


class MessageMismatch(IdempotencyMismatch):
    """The message id was used before, for other words."""

    message = "`message_id` was used for something else that was said to this run. Send a new id."
    field = "message_id"


class Unauthenticated(TwinwireError):
    """No credential, or none that is good; which of the two, and why, is nobody's business."""

    status, code, close_code = 401, "unauthenticated", 4501
    message = "A valid credential is required."


class Forbidden(TwinwireError):
    """It is known who asks, and they may not."""

    status, code, close_code = 403, "forbidden", 4503


class OriginNotAllowed(Forbidden):
    """A page of a site that is not allowed has a browser ask."""

    code = "origin_not_allowed"
    message = "Pages of this origin may not use the server. Its `--cors-origin` setting allows an origin."


class BadHost(TwinwireError):
    """A name that this server does not go by: DNS may have been made to point here (DNS rebinding)."""

    status, code = 421, "bad_host"
    message = "`Host` must be a name of this server. Its `--allowed-host` setting adds a name."
    field = "host"


class NotFound(TwinwireError):
    status, code, close_code = 404, "not_found", 4504
    message = "The path does not exist."


class RunNotFound(NotFound):
    """No such run, a run of somebody else, or no well-formed run id: one answer for all three."""

    code = "run_not_found"
    message = "The run does not exist."


class AgentNotFound(NotFound):
    code = "agent_not_found"
    message = "The server has no agent of this name."
    field = "agent"


class InputNotFound(NotFound):
    code = "input_not_found"
    message = "The run has not asked this question."
    field = "input_id"


class CursorGone(TwinwireError):
    """The cursor points before what is kept, or after what there is. Events `first`..`last` can be had."""

    status, code = 410, "gap"

    def __init__(self, first: int, last: int) -> None:
        super().__init__(f"The cursor must be within the log, which has events {first} to {last}.")
        self.first = first
        self.last = last

    def payload(self) -> dict[str, Any]:
        return {**super().payload(), "first": self.first, "last": self.last}


class SessionBusy(TwinwireError):
    status, code = 409, "session_busy"
    message = 'A run of this `session_id` is still running. Send `"interrupt": true` to end it.'
    field = "session_id"

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id

    def payload(self) -> dict[str, Any]:
        return {**super().payload(), "run_id": self.run_id}


class NotTaken(TwinwireError):
    """Something that was said to a run is not taken, and never will be."""

    status = 409


class InputClosed(NotTaken):
    """The question is closed without an answer."""

    code = "input_expired"
    message = "The question is closed: nobody answered it in time."
    field = "input_id"


class RunEnded(NotTaken):
    code = "run_ended"
    message = "The run has ended. Start another one."
    field = "run_id"


class NotAccepted(NotTaken):
    code = "not_accepted"
    message = "The agent of this run reads no messages while it works. Wait for its end, then start another run."
    field = "run_id"


class StaleWriter(TwinwireError):
    """The log is elsewhere than the writer thinks: somebody else has ended or taken over the run."""

    status, code = 409, "stale_writer"

    def __init__(self, expected: int, last: int) -> None:
        super().__init__(f"The run's last event must have number {expected}, but it has number {last}.")


class TooManyRuns(TwinwireError):
    """The limit of runs at once is reached."""

    status, code, close_code = 429, "too_many_runs", 4029
    limited = "runs at once"

    def __init__(self, limit: int, seconds: float = 1.0) -> None:
        super().__init__(f"The limit of {limit} {self.limited} is reached. Try again later.")
        self.retry_after: int = max(1, math.ceil(seconds))

    def payload(self) -> dict[str, Any]:
        return {**super().payload(), "retry_after": self.retry_after}


class TooManyWaiting(TooManyRuns):
    """The limit of runs that wait for one user is reached: the user answers or cancels one."""

    limited = "runs that wait for their user"


class RateLimited(TooManyRuns):
    """The limit of runs started within a minute is reached."""

    code = "rate_limited"
    limited = "started runs a minute"


class TooManyConnections(TooManyRuns):
    """The limit of open streams is reached. EventSource never sees this: it is told to reconnect later."""

    code = "too_many_connections"
    limited = "open streams and sockets"


class TooManyFollowed(TwinwireError):
    """A socket follows as many runs as it may."""

    status, code, close_code = 429, "too_many_followed", 4029

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This socket follows {limit} runs, as many as it may. Detach from one, or open another socket."
        )


class TooManyMessages(TwinwireError):
    """A run has as many messages as it may that its agent has yet to read."""

    status, code, close_code = 429, "too_many_messages", 4029
    message = "The agent has yet to read too many messages. Wait until it has read some."
    retry_after = 1


def refusal(payload: dict[str, Any]) -> TwinwireError:
    """Return the error with this payload, which another worker has raised for what was said to a run."""
    kinds = {kind.code: kind for kind in (BadRequest, PayloadTooLarge, MessageMismatch, TooManyMessages)}
    kind = kinds.get(payload["code"], BadRequest)
    return kind(payload["message"], field=payload.get("field"))


class UnknownOutcome(TwinwireError):
    """Nobody could tell in time whether something that was said to a run was taken."""

    status, code, close_code = 504, "unknown_outcome", 4013
    message = "The run has not taken this in time, and may take it yet. Send it again with the same `message_id`."

    def __init__(self, message_id: str) -> None:
        super().__init__(field="message_id")
        self.message_id = message_id

    def payload(self) -> dict[str, Any]:
        return {**super().payload(), "message_id": self.message_id}


class Draining(TwinwireError):
    status, code, close_code = 503, "draining", 1012
    message = "The server is shutting down. Try again later."


class LogUnavailable(TwinwireError):
    status, code, close_code = 503, "log_unavailable", 4013
    message = "The event log cannot be reached. Try again later."


class LogLost(LogUnavailable):
    """The log is gone for as long as the process lives: whoever waits for it is told, and waits no longer."""

    message = "The event log was lost. The operator must restore it and restart the server."


class Busy(TwinwireError):
    """The memory that all share, for large replies or for what clients send, is in use by others."""

    status, code, close_code = 503, "busy", 4013
    message = "The server is sending too many large replies at the moment. Try again later."


class AuthenticationUnavailable(TwinwireError):
    status, code, close_code = 503, "authentication_unavailable", 4013
    message = "The application could not tell who is asking. Try again later."


class ModelUnavailable(TwinwireError):
    """The local model's process has died and is not up again yet; a run meanwhile ends in an ERROR of its own."""

    status, code, close_code = 503, "model_unavailable", 4013
    message = "The local model is not running. Try again later."


class RunsUnavailable(TwinwireError):
    """This process cannot carry a run out, whatever the agent: a fault of the installation, or of Twinwire."""

    status, code, close_code = 503, "runs_unavailable", 4013
    message = "The server cannot carry out runs. Its log says why."


class FailedDependency(TwinwireError):
    """A request began a run, and there is no result of it (RFC 4918, section 11.4).

    `code` is the run's `error_type`, or says what went wrong after the run began. The same request would begin, and
    pay for, another run: clients must not repeat it by themselves. `result` is a cancelled run's answer so far.
    """

    status = 424

    def __init__(
        self, message: str, code: str, run_id: str, *, retry_after: int | None = None, result: object = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.run_id = run_id
        self.retry_after = retry_after
        self.result = result

    def payload(self) -> dict[str, Any]:
        extra = {"run_id": self.run_id, "retry_after": self.retry_after, "result": self.result}
        return {**super().payload(), **{name: value for name, value in extra.items() if value is not None}}


class ContextTooLong(FailedDependency):
    """The conversation is too long for the model: only a shorter request can succeed."""

    status = 400


class RunError(TwinwireError):
    """The failure of a run, as its ERROR event tells it: `error_type` is `code`, the text is `message`.

    `retry_after` is the model server's own Retry-After, in seconds. `reason` is what else than the run has ended it.
    """

    code = "agent_error"
    message = "The agent failed."
    reason: str | None = None

    def __init__(self, message: str | None = None, *, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.code = code or self.code

    @property
    def told(self) -> dict[str, Any]:
        """The data of its ERROR event."""
        told = {"error_type": self.code, "message": self.message, "error": self.message}
        more = {"retry_after": self.retry_after, "reason": self.reason}
        return told | {name: value for name, value in more.items() if value is not None}


class InputExpired(RunError):
    """Nobody has answered a question of the agent's in time."""

    code = "input_expired"
    message = "The run asked its user, and nobody answered in time."


class InputNotPossible(RunError):
    """An agent asked, and nobody could answer, or too many questions were open."""

    code = "input_not_possible"
    message = "The run would have to ask its user, who cannot be asked here. Start it as a stream."


class RunTimeout(RunError):
    """The run reached its deadline."""

    code = "timeout"
    reason = "deadline"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The run reached its deadline of {seconds:.15g} s.")


class RunInterrupted(RunError):
    """The server stops, or the log has lost events of the run: then nobody has ended it."""

    code = "interrupted"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class BudgetSpent(RunError):
    """The run has had more than it may, or with its next request would have: so many of `what`.

    These are its events, their bytes or its tokens.
    """

    code = "budget"

    def __init__(self, limit: int, what: str, *, ahead: bool = False) -> None:
        super().__init__(f"The run {'would exceed' if ahead else 'exceeded'} its budget of {limit} {what}.")


class UpstreamError(RunError):
    """The model's server failed; `code` starts with `upstream_`."""

    code = "upstream_error"


class UpstreamTimeout(UpstreamError):
    """The model's server was silent for too long."""

    code = "upstream_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The model sent nothing for {seconds:.15g} s, which `--model-timeout` allows.")


class SettingsError(TwinwireError):
    """A setting that cannot be used; `field` is the flag or the environment variable as the user wrote it."""

    code = "settings"
