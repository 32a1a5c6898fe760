"""The fields of a start, whichever way it comes: a body, a query, a command, or another protocol's request.

Pure. Each way has a Struct of its own, since each has more fields than these; a test holds that all of them agree.
The parts of a message are in `parts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from twinwire.protocol.errors import BadRequest
from twinwire.protocol.events import MAX_DEPTH, dump

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
Params = Annotated[
    dict[str, Any] | None, Meta(description="settings of this run, if its agent accepts them; in a query as JSON")
]
Labels = Annotated[
    dict[str, Any] | None, Meta(description="labels of the run: at most 16 short texts by name; in a query as JSON")
]
Parts = Annotated[
    Sequence[dict[str, Any]] | None,
    Meta(description="texts, images and files behind the message, in OpenAI's form; in a query as JSON"),
]

GRACE_SECONDS = 300
DEFAULT_ON_DISCONNECT = f"cancel_after:{GRACE_SECONDS}"
"""The policy of a run whose start names none. To close a page cancels it; to lose the network for a while does not."""

PARAMS_BYTES = 2**16
MAX_LABELS = 16
MAX_LABEL = 256
"""The characters that a label's value may have."""
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def check_params(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings of a run, plain JSON of at most `PARAMS_BYTES`. Raise `BadRequest` for anything else."""
    if not params:
        return {}
    try:
        encoded = dump(params)
        plain = msgspec.json.decode(encoded, type=dict[str, Any])
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise BadRequest("`params` must be a JSON object.", field="params") from None
    if len(encoded) > PARAMS_BYTES:
        raise BadRequest(f"`params` must have at most {PARAMS_BYTES:,} bytes as JSON.", field="params")
    if _deeper(plain, MAX_DEPTH):
        raise BadRequest(f"`params` must be nested at most {MAX_DEPTH} deep.", field="params")
    return plain


def _deeper(value: Any, levels: int) -> bool:
    """Return whether JSON has more levels of objects and arrays than these."""
    if not isinstance(value, dict | list):
        return False
    return levels == 0 or any(
        _deeper(each, levels - 1) for each in (value.values() if isinstance(value, dict) else value)
    )


def check_labels(labels: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the labels of a run. Raise `BadRequest` for too many, and for a name or a value that is none."""
    if not labels:
        return {}
    if len(labels) > MAX_LABELS:
        raise BadRequest(f"`metadata` must have at most {MAX_LABELS} labels.", field="metadata")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            right = "1 to 64 of the characters A-Z, a-z, 0-9, `_`, `.` and `-`"
            raise BadRequest(f"`metadata` must have names of {right}, not {name[:80]!r}.", field="metadata")
        if not isinstance(value, str) or len(value) > MAX_LABEL:
            message = f"`metadata.{name}` must be a text of at most {MAX_LABEL} characters."
            raise BadRequest(message, field=f"metadata.{name}")
    return dict(labels)


def are_labels(value: Any) -> bool:
    """Return whether a value that another protocol calls `metadata` has the form of labels."""
    try:
        return isinstance(value, dict) and check_labels(value) == value
    except BadRequest:
        return False
