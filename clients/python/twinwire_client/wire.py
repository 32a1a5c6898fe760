"""Run ids, event ids, cursors and event types (PROTOCOL.md, sections 1 to 3), parsed strictly.

Pure: text in, values out. The server has its own; the vectors in `tests/vectors` hold both to the protocol.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

TERMINAL_TYPES = frozenset({"AGENT_FINISH", "ERROR"})
"""A run ends with exactly one event of these types, always the last."""

PASSING = frozenset(
    {
        "busy",
        "draining",
        "log_unavailable",
        "model_unavailable",
        "rate_limited",
        "runs_unavailable",
        "too_many_connections",
        "too_many_followed",
        "too_many_messages",
        "too_many_runs",
        "unknown_outcome",
    }
)
"""The codes of errors that HTTP answers with 429, 503 or 504: the same command may succeed later."""

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


def check_text(name: str, text: object) -> None:
    """Raise `TypeError` if this is no text, as a callback may give, and `ValueError` if it cannot be UTF-8."""
    if not isinstance(text, str):
        raise TypeError(f"`{name}` must be a text (str), not {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"`{name}` must be text that can be UTF-8, and is not: {error.reason}.") from None


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
    if len(types) > MAX_TYPES:
        raise ValueError(f"`types` must have at most {MAX_TYPES} names.")
    for name in types:
        if len(name) > MAX_TYPE or not is_event_type(name):
            raise ValueError(f"`types` must have event types ([A-Z][A-Z0-9_]*), not {name[:MAX_TYPE]!r}.")
    return list(types)
