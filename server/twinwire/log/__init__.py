"""The event log: the only queue there is. A run appends to it, every connection holds a cursor into it.

`tail` is what all logs share, `memory` the log that ends with its process. `open_log` chooses by URL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec import Struct

from twinwire.errors import SettingsError
from twinwire.events import Record

Unsubscribe = Callable[[], None]


class RunInfo(Struct, frozen=True, kw_only=True):
    """What is known of a run from its start; what became of it is in its events.

    `created` is RFC 3339. `fingerprint` tells whether a request that repeats an idempotency key is the same.
    """

    run_id: str
    agent: str
    created: str
    user_id: str | None = None
    session_id: str | None = None
    fingerprint: str = ""


class Page(Struct, frozen=True):
    """Some events in order, and what the log holds: `first`..`last`, `ended` where `last` is the terminal event.

    A log without an event has `first` 1 and `last` 0.
    """

    records: Sequence[Record]
    first: int
    last: int
    ended: bool


class RunState(Struct, frozen=True):
    """A run and what the log holds of it, as a `Page` tells it; `terminal` is the terminal event once it is there."""

    info: RunInfo
    first: int
    last: int
    terminal: Record | None


class EventLog(Protocol):
    """Where events are kept. One writer per run, any number of readers."""

    async def create(self, run: RunInfo, *, idempotency_key: str | None) -> RunInfo:
        """Open the log of a run.

        Returns `run`, or the run that this user started with this key before. Raises `IdempotencyMismatch`
        where that one's fingerprint differs.
        """
        ...

    def append(self, run_id: str, expected_last: int, records: Sequence[Record]) -> Awaitable[None] | None:
        """Append records, at least one, whose numbers follow `expected_last`, and wake the followers.

        Returns None where it is done, else an awaitable: a log in memory costs its writer no coroutine.
        Refused whole with `StaleWriter` where the log is elsewhere or has ended; the same append again is no error.
        """
        ...

    async def find(self, user_id: str | None, idempotency_key: str) -> RunInfo | None:
        """The run that this user started with this key, if it is still known."""
        ...

    async def state(self, run_id: str) -> RunState:
        """What is known of the run. Raises `RunNotFound`."""
        ...

    async def page(self, run_id: str, after: int, limit: int) -> Page:
        """At most `limit` events after number `after`, fewer where they are large; never waits for more.

        Raises `RunNotFound`, and `CursorGone` for a cursor that was trimmed or lies in the future.
        """
        ...

    async def ping(self) -> None:
        """Raises `LogUnavailable` where the log cannot be reached."""
        ...

    def subscribe(self, run_id: str, wake: Callable[[], None]) -> Unsubscribe:
        """Have `wake` called after each append. It must be quick and must not raise. Raises `RunNotFound`."""
        ...


def open_log(url: str, *, max_events: int, max_bytes: int, retention: float) -> EventLog:
    """The log that a URL names. Raises `SettingsError`."""
    from twinwire.log.memory import MemoryLog

    if url != "memory://":
        raise SettingsError(f"{url.partition(':')[0]!r} is no log this server knows; memory:// is", field="--log")
    return MemoryLog(max_events=max_events, max_bytes=max_bytes, retention=retention)
