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


def open_log(url: str, limits: Limits) -> Store:
    """Return the log that a URL names; it is not open yet. Raises `SettingsError`."""
    from twinwire.log.memory import MemoryLog

    scheme = url.partition(":")[0]
    if scheme in {"redis", "rediss"}:
        from twinwire.log.redis.log import RedisLog

        return RedisLog(url, limits)
    if scheme == "sqlite":
        from twinwire.log.sqlite.log import SqliteLog

        return SqliteLog(url, limits)
    if url != "memory://":
        raise SettingsError(
            "`--log` must be memory://, sqlite:///file.db or redis://host:port/0.",
            field="--log",
        )
    return MemoryLog(limits)
