"""Run ids, event ids, cursors and event types (PROTOCOL.md, sections 1 to 3), parsed strictly.

Pure: text in, values out. The server has its own; the vectors in `tests/vectors` hold both to the protocol.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

TERMINAL_TYPES = frozenset({"AGENT_FINISH", "ERROR"})
"""A run ends with exactly one event of these types, always the last."""

STATUSES = {
    "bad_request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "origin_not_allowed": 403,
    "agent_not_found": 404,
    "input_not_found": 404,
    "not_found": 404,
    "run_not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
    "input_expired": 409,
    "not_accepted": 409,
    "run_ended": 409,
    "session_busy": 409,
    "gap": 410,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "bad_host": 421,
    "idempotency_mismatch": 422,
    "upgrade_required": 426,
    "rate_limited": 429,
    "too_many_connections": 429,
    "too_many_followed": 429,
    "too_many_messages": 429,
    "too_many_runs": 429,
    "head_too_large": 431,
    "not_implemented": 501,
    "busy": 503,
    "draining": 503,
    "log_unavailable": 503,
    "authentication_unavailable": 503,
    "model_unavailable": 503,
    "runs_unavailable": 503,
    "unknown_outcome": 504,
}
"""The HTTP status of each code of an error (PROTOCOL.md, section 2), which a socket does not tell."""

PASSING = frozenset(code for code, status in STATUSES.items() if status in {429, 503, 504})
"""The codes of errors after which the same command may succeed later."""

MAX_NUMBER = 2**63 - 1
MAX_TYPES = 32
MAX_TYPE = 64

_RUN_ID = re.compile(r"[a-z2-7]{26}", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_EVENT_ID = re.compile(r"evt-([a-z2-7]{26})-(0|[1-9][0-9]{0,18})", re.ASCII)
_TYPE = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)


class EventId(NamedTuple):
    """The run and the number that an event's id names."""

    run_id: str
    number: int


def is_run_id(text: object) -> TypeGuard[str]:
    """Return whether this is a well-formed run id."""
    return isinstance(text, str) and _RUN_ID.fullmatch(text) is not None


def is_event_type(text: str) -> bool:
    """Return whether this is a well-formed event type, of the protocol's own or of an agent's."""
    return _TYPE.fullmatch(text) is not None


def parse_event_id(text: str) -> EventId | None:
    """Return what an event id, `evt-<run>-<number>`, names. Return None for any other text."""
    match = _EVENT_ID.fullmatch(text)
    if match is None or (number := int(match[2])) > MAX_NUMBER:
        return None
    return EventId(match[1], number)


def parse_after(after: int | str, run_id: str) -> int:
    """Return the number of the last event seen, from a number or an event id of this run. Raise `ValueError`."""
    text = str(after)
    if _NUMBER.fullmatch(text) and (number := int(text)) <= MAX_NUMBER:
        return number
    named = parse_event_id(text)
    if named is None:
        raise ValueError("`after` must be a number from 0 to 2^63 - 1, or an event id (`evt-<run>-<number>`).")
    if named.run_id != run_id:
        raise ValueError("`after` must be an event id of this run, not of another.")
    return named.number


def check_types(types: Sequence[str] | None) -> list[str] | None:
    """Return the event types that are asked for; None stands for all. Raise `ValueError` if a server would refuse.

    They are checked before they are sent, since a bad filter must not start a run.
    """
    if types is None:
        return None
    if isinstance(types, str):
        raise ValueError("`types` must be a list of event types, not one text.")  # noqa: TRY004
    if not 0 < len(types) <= MAX_TYPES:
        raise ValueError(f"`types` must have at least one name, and at most {MAX_TYPES}.")
    for name in map(str, types):
        if len(name) > MAX_TYPE or not is_event_type(name):
            raise ValueError(f"`types` must have event types ([A-Z][A-Z0-9_]*), not {name!r:.{MAX_TYPE}}.")
    return list(types)
