"""The one writer of one run: numbers and encodes its events, and appends what one loop turn brought as one batch."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from twinwire.errors import LogUnavailable, RunNotFound, StaleWriter
from twinwire.events import Record, StreamEvent, encode
from twinwire.log import EventLog

logger = logging.getLogger("twinwire.runs")

MAX_PENDING = 1024
RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 2.0


class Writer:
    """Writes to one run's log. `on_last` is called when the terminal event is in the log, or never can be."""

    def __init__(self, log: EventLog, run_id: str, on_last: Callable[[], None]) -> None:
        self._log = log
        self._run_id = run_id
        self._on_last = on_last
        self._loop = asyncio.get_running_loop()
        self._pending: list[Record] = []
        self._scheduled = False
        self._appending: asyncio.Future[None] | None = None
        self._progress = asyncio.Event()
        self._appended = 0
        self.last = 0

    def put(self, event: StreamEvent) -> None:
        """Write the event as number `last + 1`. Encodes it now; raises as `events.dump`, having written nothing."""
        record = encode(event, self._run_id, self.last + 1)
        self.last = record.seq
        self._pending.append(record)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    @property
    def idle(self) -> bool:
        """Whether all that was put is in the log."""
        return self._appended == self.last

    @property
    def full(self) -> bool:
        """Whether the log is so slow that too much is pending."""
        return len(self._pending) >= MAX_PENDING

    async def room(self) -> None:
        """Wait while `full`."""
        while self.full:
            await self._progress.wait()

    async def flushed(self) -> None:
        """Wait until `idle`."""
        while not self.idle:
            await self._progress.wait()

    def _flush(self) -> None:
        self._scheduled = False
        if self._appending is not None or not self._pending:
            return
        batch, self._pending = self._pending, []
        try:
            appending = self._log.append(self._run_id, self._appended, batch)
        except (StaleWriter, RunNotFound) as error:
            self._lost(error)
            return
        if appending is None:
            self._done(batch)
        else:
            self._appending = asyncio.ensure_future(self._append(appending, batch))

    async def _append(self, appending: Awaitable[None] | None, batch: list[Record]) -> None:
        """Wait for an append; repeat it for as long as the log is away. What is pending meanwhile is bounded."""
        delay = RETRY_SECONDS
        try:
            while appending is not None:
                try:
                    await appending
                    break
                except LogUnavailable:
                    await asyncio.sleep(random.uniform(0.5, 1.0) * delay)
                    delay = min(2 * delay, MAX_RETRY_SECONDS)
                    appending = self._log.append(self._run_id, self._appended, batch)
        except (StaleWriter, RunNotFound) as error:
            self._lost(error)
            return
        finally:
            self._appending = None
        self._done(batch)
        self._flush()

    def _done(self, batch: list[Record]) -> None:
        self._appended = batch[-1].seq
        self._progress.set()
        self._progress.clear()
        if batch[-1].last:
            self._on_last()

    def _lost(self, error: Exception) -> None:
        """The log is no longer ours to write: whoever took it over ends the run."""
        logger.warning("run %s: the log refused its writer: %s", self._run_id, error)
        self._pending.clear()
        self._on_last()
