"""A run whose process is gone, as its log gives it to a process that may go on with it."""

from __future__ import annotations

from msgspec import Struct

from twinwire.log.base import RunInfo

MOST_CLAIMS = 3
"""The times that a run is taken over without a checkpoint in between: whatever ends its processes may be the run."""


class Orphan(Struct, frozen=True, kw_only=True):
    """A run that goes on nowhere, and what its log has kept for whoever goes on with it.

    `owner` is the worker that had it last. It was taken over `epoch` times, `claims` of them since its newest
    checkpoint. The log holds its events `first`..`last`, about `size` bytes. `start` is what `EventLog.create` was
    given, `checkpoint` the newest that `EventLog.append` was given, empty if there is none.
    """

    info: RunInfo
    owner: str
    epoch: int
    claims: int
    first: int
    last: int
    size: int
    start: bytes
    checkpoint: bytes = b""
