"""The event log: the only queue there is. A run appends to it, every connection holds a cursor into it.

`base` says what a log is, and `open_log` chooses one by its URL: `memory` ends with its process, `sqlite` is in a file,
`redis` is shared by many workers. `tail` is what all of them have in memory of a run.
"""

from __future__ import annotations

from twinwire.log.base import (
    MAX_LISTED as MAX_LISTED,
    STOPPING as STOPPING,
    Departure as Departure,
    EventLog as EventLog,
    Folded as Folded,
    Limits as Limits,
    Listing as Listing,
    Position as Position,
    Quota as Quota,
    RunInfo as RunInfo,
    RunState as RunState,
    RunSummary as RunSummary,
    SessionKey as SessionKey,
    Store as Store,
    Unsubscribe as Unsubscribe,
    Wanted as Wanted,
)
from twinwire.protocol.errors import SettingsError

SHARED = frozenset({"redis", "private"})
"""The kinds of log that several processes can use at once."""

_KINDS = {"rediss": "redis", "unix": "redis"}


def kind_of(url: str) -> str:
    """Return the kind of log that a URL names: `memory`, `sqlite`, `redis`, or `private`.

    A private log is in a Redis or Valkey that the workers of one command have to themselves.
    """
    scheme = url.partition(":")[0]
    return _KINDS.get(scheme, scheme)


def open_log(url: str, limits: Limits) -> Store:
    """Return the log that a URL names; it is not open yet. Raises `SettingsError`."""
    from twinwire.log.memory import MemoryLog

    kind = kind_of(url)
    if kind in SHARED:
        from twinwire.log.redis.log import RedisLog

        return RedisLog(url, limits)
    if kind == "sqlite":
        from twinwire.log.sqlite.log import SqliteLog

        return SqliteLog(url, limits)
    if url != "memory://":
        raise SettingsError(
            "`--log` must be memory://, sqlite:///file.db, redis://host:port/0 or unix:///redis.sock.",
            field="--log",
        )
    return MemoryLog(limits)
