"""A run, as `GET /runs/{run_id}` tells it (PROTOCOL.md, section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Required, TypedDict, TypeGuard


class RunInfo(TypedDict, total=False):
    """A run. `user_id`, `session_id` and `metadata`, its labels, are there if it has them.

    `result` and what follows it, but for `waiting` and `questions`, are there once it has ended.

    `status` is `running`, `completed`, `incomplete`, `cancelled`, `max_steps` or `error`. `first` and `last` are the
    numbers of the events that are kept, `created` is a time as in an event. `questions` are the data of its open
    INPUT_REQUESTED; it is `waiting` if nothing can come of it before an answer. A server may add keys.
    """

    run_id: Required[str]
    agent: Required[str]
    created: Required[str]
    status: Required[str]
    first: Required[int]
    last: Required[int]
    user_id: str
    session_id: str
    metadata: dict[str, str]
    result: Any
    duration: float
    usage: dict[str, int]
    reason: str
    waiting: bool
    questions: list[dict[str, Any]]
    error_type: str
    message: str


class RunPage(list[RunInfo]):
    """A page of a list of runs. `next` is the `page` that follows, or None if this is the last one.

    A page may have fewer runs than were asked for, or none, and yet have a `next`.
    """

    def __init__(self, runs: Iterable[RunInfo] = (), next: str | None = None) -> None:  # noqa: A002 - the server's name
        super().__init__(runs)
        self.next = next


_TEXTS, _NUMBERS = ("run_id", "agent", "created", "status"), ("first", "last")


def is_info(told: object) -> TypeGuard[RunInfo]:
    """True if this tells of a run."""
    return (
        isinstance(told, dict)
        and all(isinstance(told.get(name), str) for name in _TEXTS)
        and all(isinstance(told.get(name), int) for name in _NUMBERS)
    )
