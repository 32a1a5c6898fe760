"""The appends of many runs as one job of the thread that writes: what they tell within a millisecond.

A job for each would wake the thread for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct

from twinwire.log.pace import Pace
from twinwire.log.sqlite.tables import Tables
from twinwire.log.sqlite.writer import BATCH_BYTES, BATCH_EVENTS, Job
from twinwire.protocol.errors import RunNotFound, StaleWriter, TwinwireError
from twinwire.protocol.events import Record

Bounds = tuple[int, int] | None
"""The numbers that `Tables.append` returns."""


class Append(Struct, eq=False):
    """An append to a run, as `Tables.append` takes it. `done` is done when it is committed, or fails."""

    run_id: str
    expected_last: int
    records: Sequence[Record]
    slowest: int
    retention: float | None
    checkpoint: bytes | None
    done: asyncio.Future[None]

    def write(self, tables: Tables) -> Bounds | TwinwireError:
        """Append it, in the thread. One that is refused has written nothing, and the others go on."""
        try:
            return tables.append(
                self.run_id, self.expected_last, self.records, self.slowest, self.retention, checkpoint=self.checkpoint
            )
        except TwinwireError as error:
            return error


class Appends:
    """Joins the appends of all runs, and `put`s them as one job.

    When they are committed, `kept(append, bounds)` is called for each, or `refused(run_id, last)` if it was.
    """

    def __init__(
        self,
        put: Callable[[Job], None],
        *,
        kept: Callable[[Append, Bounds], None],
        refused: Callable[[str, int], None],
    ) -> None:
        self._put = put
        self._kept = kept
        self._refused = refused
        self._open: list[Append] = []
        self._events = self._size = 0
        self._pace = Pace(self.send)

    def append(self, append: Append) -> asyncio.Future[None]:
        """Append it with what else comes, or at once if somebody waits for it. Return `append.done`."""
        opens = not self._open
        self._open.append(append)
        self._events += len(append.records)
        for record in append.records:
            self._size += len(record.body)
        if append.checkpoint is not None:
            self._size += len(append.checkpoint)
        urgent = append.checkpoint is not None or append.records[-1].last
        if urgent or self._events >= BATCH_EVENTS or self._size >= BATCH_BYTES:
            self.send()
        elif opens:
            self._pace.ask()
        return append.done

    def send(self) -> None:
        """Put what there is."""
        if not self._open:
            return
        appends, self._open = self._open, []

        def write(tables: Tables) -> list[Bounds | TwinwireError]:
            return [append.write(tables) for append in appends]

        def written(found: list[Bounds | TwinwireError]) -> None:
            for append, bounds in zip(appends, found, strict=True):
                self._tell(append, bounds)

        def failed(job: asyncio.Future[list[Bounds | TwinwireError]]) -> None:
            error = None if job.cancelled() else job.exception()
            if error is not None:
                for append in appends:
                    if not append.done.done():
                        append.done.set_exception(error)

        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(failed)
        self._put(Job(write, written, future, self._events, self._size))
        self._events = self._size = 0
        self._pace.sent()

    def _tell(self, append: Append, bounds: Bounds | TwinwireError) -> None:
        """An append of a transaction that was committed was made, or refused."""
        try:
            if isinstance(bounds, TwinwireError):
                if isinstance(bounds, StaleWriter | RunNotFound):
                    self._refused(append.run_id, append.expected_last)
                raise bounds
            self._kept(append, bounds)
        except Exception as error:  # noqa: BLE001 - the others go on
            if not append.done.done():
                append.done.set_exception(error)
        else:
            if not append.done.done():
                append.done.set_result(None)
