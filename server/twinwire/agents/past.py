"""The past of a run that another process goes on with, and the checkpoints that it goes on from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from twinwire.protocol.events import StreamEvent


class Past(Protocol):
    """The work of other processes on a run.

    It was taken over `epoch` times. `state` is what its agent gave to the newest `RunRequest.checkpoint`, None if there
    was none, after event number `after`. `trimmed` is true if the log no longer has the run's first events.
    """

    epoch: int
    state: Any
    after: int
    trimmed: bool

    def events(self, after: int = 0, *, void: bool = False) -> AsyncIterator[StreamEvent]:
        """Yield the events of other processes after number `after` that count, or all, with those that are `void`.

        They are read page by page. Raises `CursorGone` if the first of them are trimmed, and `LogUnavailable`.
        """
        ...


class Checkpoints(Protocol):
    """A run's side of it; see `RunRequest.can_resume` and `RunRequest.checkpoint`."""

    kept: bool

    async def write(self, state: Any, *, counts: bool) -> None:
        """See `RunRequest.checkpoint`."""
        ...


class _Unkept:
    """No process can go on with this run, or it is of none."""

    kept = False

    async def write(self, state: Any, *, counts: bool) -> None:
        pass


unkept: Checkpoints = _Unkept()
