"""The fields of a start, whichever way it comes: a body, a query, a command, or another protocol's request.

Pure. Each way has a Struct of its own, since each has more fields than these; a test holds that all of them agree.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Message = Annotated[str, Meta(description="what the agent is asked")]
AgentName = Annotated[str | None, Meta(description="the agent's name; default react")]
UserId = Annotated[Name | None, Meta(description="names the user if authentication is off")]
SessionId = Annotated[Name | None, Meta(description="the conversation this message belongs to")]
OnDisconnect = Annotated[
    str | None, Meta(description="when nobody follows: continue, cancel or cancel_after:<seconds>")
]
IdempotencyKey = Annotated[Name | None, Meta(description="a repeated start with this key is the same run")]
Traceparent = Annotated[
    str | None,
    Meta(description="the span that the run is a part of (W3C Trace Context); default the header of that name"),
]
Interrupt = Annotated[bool, Meta(description="end the session's running run instead of answering 409")]

GRACE_SECONDS = 300
DEFAULT_ON_DISCONNECT = f"cancel_after:{GRACE_SECONDS}"
"""The policy of a run whose start names none. To close a page cancels it; to lose the network for a while does not."""
