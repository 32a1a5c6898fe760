"""The one writer of one run: numbers and encodes its events, and appends what was put since the last `flush` as one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Generator
from time import monotonic
from typing import Any

from twinwire.log import EventLog
from twinwire.protocol.errors import LogLost, LogUnavailable, RunNotFound, StaleWriter
from twinwire.protocol.events import Record, StreamEvent, encode
from twinwire.telemetry.metrics import TOKENS, Metrics

logger = logging.getLogger("twinwire.runs")

MAX_PENDING = 1024
MAX_BATCH = 8192
"""The most events of one append: SQLite and Redis serve nobody else meanwhile."""

RETRY_SECONDS = 0.05
MAX_RETRY_SECONDS = 2.0
TIMED = 8  # one in so many gaps between tokens is timed


class Room:
    """Awaits a writer's `room`; unlike a coroutine it may also be left alone."""

    __slots__ = ("_writer",)

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __await__(self) -> Generator[Any, None, None]:
        return self._writer.room().__await__()


class _Append:
    """An append that is under way: its records, and its checkpoint, if any, with the number of that."""

    __slots__ = ("batch", "began", "checkpoint", "delay", "number")

    def __init__(self, batch: list[Record], checkpoint: bytes | None = None, number: int = 0) -> None:
        self.batch = batch
        self.checkpoint = checkpoint
        self.number = number
        self.began = monotonic()
        self.delay = RETRY_SECONDS


class Writer:
    """Writes to one run's log. `on_last` is called when the terminal event is in the log, or never can be.

    `pending` are the records of which no append is under way, and `most` is how many make it `full`. In a run that
    another process has begun, `last` is the number of its last event, and `size` the bytes of all its events.
    """

    def __init__(
        self,
        log: EventLog,
        run_id: str,
        on_last: Callable[[], None],
        metrics: Metrics | None = None,
        *,
        last: int = 0,
        size: int = 0,
    ) -> None:
        self.log = log
        self._run_id = run_id
        self._on_last = on_last
        self._metrics = metrics or Metrics()
        self._silent_since: float | None = None if last else monotonic()  # until the first token
        self._appends = 0
        self._token_at = 0.0  # when the append before was, if the gap after it is to be timed
        self.pending: list[Record] = []
        self._under_way: _Append | None = None
        self.most = MAX_PENDING
        self._progress: asyncio.Event | None = None  # made by the first who waits: it is a kilobyte
        self._waiting = 0
        self.refused = False  # the log has refused this writer: it has nothing to write any more
        self._appended = last
        self.last = last
        self.size = size  # bytes of all that was put
        self._checkpoint: bytes | None = None  # the newest one, of which no append is under way
        self._checkpoints = 0  # that were kept
        self._acknowledged = 0  # of these

    def put(self, event: StreamEvent, check: Callable[[int, int], None] | None = None) -> None:
        """Write the event as number `last + 1`, at the next `flush`.

        Encodes it now, and tells `check` how many events and bytes there would be; raises as that and `events.dump` do,
        having written nothing.
        """
        record = encode(event, self._run_id, self.last + 1)
        size = self.size + len(record.body)
        if check is not None:
            check(record.seq, size)
        self.last = record.seq
        self.size = size
        self.pending.append(record)

    @property
    def idle(self) -> bool:
        """Return whether all that was put is in the log."""
        return self._appended == self.last

    @property
    def full(self) -> bool:
        """Return whether the log is so slow that too much is pending, or its followers are."""
        return len(self.pending) >= self.most

    def block(self) -> None:
        """Be `full` until `unblock`. What is put all the same is written."""
        self.most = MAX_PENDING if self.refused else 0

    def unblock(self) -> None:
        """Be no longer blocked."""
        if not self.most:
            self.most = MAX_PENDING
            self._wake()

    async def room(self) -> None:
        """Wait while `full`."""
        while self.full:
            await self._wait()

    async def flushed(self) -> None:
        """Wait until `idle`. Raises `LogUnavailable` if the log has refused its writer."""
        while not self.idle:
            if self.refused:
                raise LogUnavailable
            await self._wait()

    def keep(self, checkpoint: bytes) -> int:
        """Append a checkpoint with what was put until now. Return its number, for `kept`."""
        self._checkpoints += 1
        if not self.refused:
            self._checkpoint = checkpoint
            self.flush()
        return self._checkpoints

    async def kept(self, number: int) -> None:
        """Wait until the log has this checkpoint, or a newer one. Raises `LogUnavailable` if it refuses its writer."""
        while self._acknowledged < number:
            if self.refused:
                raise LogUnavailable
            await self._wait()

    async def _wait(self) -> None:
        if self._progress is None:
            self._progress = asyncio.Event()
        self._waiting += 1
        try:
            await self._progress.wait()
        finally:
            self._waiting -= 1

    def flush(self) -> None:
        """Append what was put, now; if an append is under way, right after it."""
        if self._under_way is not None or not (self.pending or self._checkpoint is not None):
            return
        batch, self.pending = self.pending, []
        if len(batch) > MAX_BATCH:
            self._flush_parts(batch)
            return
        if self._checkpoint is not None:
            self._flush_kept(batch)
            return
        self._appends += 1
        if not self._appends % TIMED or self._token_at or self._silent_since is not None:
            self._time(batch)
        try:
            appending = self.log.append(self._run_id, self._appended, batch)
        except (StaleWriter, RunNotFound, LogLost) as error:
            self._lost(error)
            return
        if appending is None:
            self._appended = batch[-1].seq
            if self._waiting or batch[-1].last:
                self._tell(batch[-1])
        else:
            self._await(appending, _Append(batch))

    def _flush_parts(self, batch: list[Record]) -> None:
        """Append these records as several batches; a checkpoint comes with the last of them, or after it."""
        checkpoint, self._checkpoint = self._checkpoint, None
        for at in range(0, len(batch), MAX_BATCH):
            if not self.refused:
                self.pending += batch[at : at + MAX_BATCH]
                self.flush()
        if checkpoint is not None and not self.refused:
            self._checkpoint = checkpoint
            self.flush()

    def _flush_kept(self, batch: list[Record]) -> None:
        """Append the newest checkpoint with these records, if any. Nobody needs it if the last one is terminal."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if batch and batch[-1].last:
            self._acknowledged = self._checkpoints
            self.pending = batch
            self.flush()
            return
        self._send(_Append(batch, checkpoint, self._checkpoints))

    def _time(self, batch: list[Record]) -> None:
        """See `Metrics`. Of appends in a row only some are timed: it would cost a fifth of each."""
        now = monotonic()
        if self._silent_since is not None:
            if any(record.type in TOKENS for record in batch):
                self._metrics.first_token.add(now - self._silent_since)
                self._silent_since = None
        elif self._token_at:
            if batch[0].type in TOKENS:
                self._metrics.token_gap.add(now - self._token_at)
            self._token_at = 0.0
        elif batch[-1].type in TOKENS:
            self._token_at = now

    def _send(self, append: _Append) -> None:
        """Have the log append this, for the first time or again."""
        kept = () if append.checkpoint is None else (append.checkpoint,)
        try:
            appending = self.log.append(self._run_id, self._appended, append.batch, *kept)
        except (StaleWriter, RunNotFound, LogLost) as error:
            self._under_way = None
            self._lost(error)
            return
        if appending is None:
            self._done(append)
        else:
            self._await(appending, append)

    def _await(self, appending: Awaitable[None], append: _Append) -> None:
        """Hear of what the log has made of this append. A callback needs no task."""
        self._under_way = append
        asyncio.ensure_future(appending).add_done_callback(self._replied)

    def _replied(self, reply: asyncio.Future[None]) -> None:
        """The log has appended what was under way, or not. While it is away, it is asked again.

        What is pending meanwhile is bounded.
        """
        append = self._under_way
        if append is None or reply.cancelled():  # the loop ends
            return
        error = reply.exception()
        if error is None:
            self._done(append)
        elif isinstance(error, LogUnavailable) and not isinstance(error, LogLost):
            asyncio.get_running_loop().call_later(random.uniform(0.5, 1.0) * append.delay, self._send, append)
            append.delay = min(2 * append.delay, MAX_RETRY_SECONDS)
        elif isinstance(error, (StaleWriter, RunNotFound, LogLost)):
            self._under_way = None
            self._lost(error)
        else:
            self._under_way = None
            raise error

    def _done(self, append: _Append) -> None:
        """An append that was under way is in the log."""
        self._under_way = None
        self._metrics.append.add(monotonic() - append.began)
        self._acknowledged = max(self._acknowledged, append.number)
        if append.batch:
            self._appended = append.batch[-1].seq
            self._tell(append.batch[-1])
        else:
            self._wake()
        self.flush()

    def _tell(self, last: Record) -> None:
        """Wake whoever waits: this is in the log."""
        self._wake()
        if last.last:
            self._finish()

    def _wake(self) -> None:
        if self._waiting and self._progress is not None:
            self._progress.set()
            self._progress.clear()

    def _lost(self, error: Exception) -> None:
        """The log is no longer ours to write: whoever took it over ends the run."""
        logger.warning("The log refused the writer of the run %s. %s", self._run_id, error)
        self.pending.clear()
        self._checkpoint = None
        self.refused, self.most = True, MAX_PENDING
        self._wake()
        self._finish()

    def _finish(self) -> None:
        """Call `on_last`, and let it go: it is the run's, which would otherwise be in a cycle with its writer.

        The text of a run would stay in memory until the garbage collector comes to it: 2.5 GB after 300 large runs.
        """
        on_last, self._on_last = self._on_last, lambda: None
        on_last()
