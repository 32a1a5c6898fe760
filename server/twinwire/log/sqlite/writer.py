"""The one thread that writes a SQLite log: takes all jobs there are and commits them as one transaction.

While one commit goes on the next batch collects: a busy log commits more per transaction, an idle one at once. Between
commits it deletes, a little at a time, what is not to be kept.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from typing import Any

from msgspec import Struct

from twinwire.log.sqlite.checkpoint import Checkpoints
from twinwire.log.sqlite.file import damaged
from twinwire.log.sqlite.tables import Tables
from twinwire.log.sqlite.watch import Trouble, Watch
from twinwire.protocol.errors import LogLost, LogUnavailable, TwinwireError

logger = logging.getLogger("twinwire.log")

BATCH_EVENTS = 1024  # in one transaction: a few milliseconds
BATCH_BYTES = 2**20
TIDY_SECONDS = 1.0
LOOK_SECONDS = 1.0
FAILED_SECONDS = 30.0


class Job(Struct, gc=False):
    """Something to do in a transaction.

    Once that is committed, in the event loop: `then(result)`, and `future` has the result. `events` and `size` (bytes)
    say how much it writes.
    """

    do: Callable[[Tables], Any]
    then: Callable[[Any], None] | None
    future: asyncio.Future[Any]
    events: int = 1
    size: int = 0


class Writer:
    """The thread, from `start` to `stop`. `opening` is entered and left in the thread itself.

    `on_lost` is called, in the event loop, when the log is lost for as long as the process lives; `on_disturbed` when
    another program has written to the file.
    """

    def __init__(
        self,
        opening: Callable[[], AbstractContextManager[tuple[Tables, Checkpoints, Watch]]],
        loop: asyncio.AbstractEventLoop,
        *,
        on_lost: Callable[[], None],
        on_disturbed: Callable[[], None],
    ) -> None:
        self._opening = opening
        self._loop = loop
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._emptying: SimpleQueue[tuple[asyncio.Future[None], bool]] = SimpleQueue()
        self._stopping = False
        self._on_lost = on_lost
        self._on_disturbed = on_disturbed
        self._trouble: Trouble | None = None
        self._damage = ""
        self.healthy = True  # whether the last transaction could be committed, and there can be another
        self.committed_at = 0.0  # when that was, on the monotonic clock
        self.wal_bytes = 0
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        # A daemon: a process that was told to end does not wait for a disk that hangs.
        self._thread = threading.Thread(target=self._run, name="sqlite-log", daemon=True)

    def start(self) -> None:
        """Begin; `opened` tells when the tables are there, or why not."""
        self._thread.start()

    def put(self, job: Job) -> None:
        """Do this, after all that was put before."""
        if self._stopping:
            job.future.set_exception(self._refusal())
        else:
            self._queue.put(job)

    def empty(self, *, rewrite: bool) -> asyncio.Future[None]:
        """Leave nothing that was deleted before, as `Checkpoints.empty`. The future has `LogUnavailable` if that fails.

        Then another program reads, and what is there is overwritten once it does so no longer.
        """
        emptied = self._loop.create_future()
        if self._stopping:
            emptied.set_exception(self._refusal())
        else:
            self._emptying.put((emptied, rewrite))
            self._wake()
        return emptied

    def damaged(self, error: BaseException) -> None:
        """Write no more to a file in which damage was found. May be called from any thread."""
        self._damage = f"is damaged ({error})"

    def _refusal(self) -> LogUnavailable:
        return LogLost() if self._trouble is not None and self._trouble.final else LogUnavailable()

    def stop(self) -> None:
        """End after all that was put; `closed` tells when."""
        if not self._stopping:
            self._wake()
            self._stopping = True

    def _wake(self) -> None:
        """Give the thread something to do."""
        nobody = self._loop.create_future()
        nobody.cancel()
        self._queue.put(Job(lambda _: None, None, nobody))

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            with self._opening() as (tables, checkpoints, watch):
                self._post(_resolve, self.opened)
                self._serve(tables, checkpoints, watch)
        except BaseException as error:  # noqa: BLE001 - whoever waits for `opened`, or for a job, is told
            failure = error
        self._post(self._end, failure)

    def _serve(self, tables: Tables, checkpoints: Checkpoints, watch: Watch) -> None:
        due = look = pause = 0.0
        self.committed_at = time.monotonic()
        while not (self._stopping and self._queue.empty()):
            if time.monotonic() >= look:
                self._look(watch)
                try:
                    if self._trouble is None and tables.disturbed():
                        self._post(self._on_disturbed)
                except sqlite3.Error as error:
                    self._examine(error)
                look = time.monotonic() + LOOK_SECONDS
            if self._trouble is not None:
                jobs = self._take(look - time.monotonic())
                if jobs:
                    self._post(_settle, jobs, [self._refusal() for _ in jobs])
                self._empty(None)
                if self._trouble.moving:
                    self._checkpoint(checkpoints)
                continue
            if jobs := self._take(min(due, look) - time.monotonic()):
                self._commit(tables, checkpoints, jobs)
                self._empty(checkpoints)
            if time.monotonic() >= due or (tables.crowded and pause < FAILED_SECONDS):
                pause = self._tidy(tables, checkpoints)
                due = time.monotonic() + pause
            if checkpoints.due:
                self._look(watch)  # a checkpoint makes a file that was cut as long again
            if self._trouble is None:
                self._checkpoint(checkpoints)

    def _look(self, watch: Watch) -> None:
        """See whether the files are there and whole. What was lost stays lost."""
        if self._trouble is not None and self._trouble.final:
            return
        trouble: Trouble | None
        if self._damage:
            watch.lost, trouble = True, Trouble(self._damage, final=True)
        else:
            trouble = watch.look()
        self.wal_bytes = watch.wal_bytes
        if (warning := watch.swollen()) is not None:
            logger.warning("The SQLite log cannot shrink: %s.", warning)
        if trouble is None:
            self._trouble = None
            return
        if trouble.final:
            logger.critical(
                "The SQLite log's file %s. Nothing is read or written any more, and all runs end. Restore the file, if"
                " you can, and restart the server.",
                trouble.text,
            )
            self._post(self._on_lost)
        elif self._trouble is None:
            logger.error("The SQLite log's file %s. Nothing is written meanwhile.", trouble.text)
        self._trouble, self.healthy = trouble, False

    def _take(self, seconds: float) -> list[Job]:
        """Return the jobs there are, as many as make a transaction; none if none comes in this time."""
        try:
            job = self._queue.get(timeout=max(seconds, 0))
        except Empty:
            return []
        jobs, events, size = [job], job.events, job.size
        while events < BATCH_EVENTS and size < BATCH_BYTES and not self._queue.empty():
            job = self._queue.get()
            jobs.append(job)
            events += job.events
            size += job.size
        return jobs

    def _commit(self, tables: Tables, checkpoints: Checkpoints, jobs: list[Job]) -> None:
        results: list[Any] = []
        try:
            with checkpoints.counted(sum([job.size for job in jobs])), tables.transaction():
                for job in jobs:
                    try:
                        results.append(job.do(tables))
                    except TwinwireError as error:  # refused before it wrote anything: the others go on
                        results.append(error)
        except BaseException as error:  # noqa: BLE001 - a full disk, or a fault of ours: nothing was written
            if self.healthy:
                logger.error("The SQLite log cannot be written: %s.", error)  # noqa: TRY400 - not ours, mostly
            self.healthy = False
            self._examine(error)
            results = [LogUnavailable() for _ in jobs]
        else:
            if not self.healthy:
                logger.warning("The SQLite log can be written again.")
            self.healthy = True
            self.committed_at = time.monotonic()
        self._post(_settle, jobs, results)

    def _tidy(self, tables: Tables, checkpoints: Checkpoints) -> float:
        """Delete a little. Return in how many seconds to look again."""
        try:
            with checkpoints.counted():
                return 0.0 if tables.tidy() else TIDY_SECONDS
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("The SQLite log cannot delete what is old: %s.", error)
            self._examine(error)
            return FAILED_SECONDS

    def _checkpoint(self, checkpoints: Checkpoints) -> None:
        try:
            checkpoints.step()
        except sqlite3.Error as error:  # what is committed stays where it is, until the next one
            logger.warning("The SQLite log cannot move what is committed into its file: %s.", error)
            self._examine(error)

    def _empty(self, checkpoints: Checkpoints | None) -> None:
        """Empty the write-ahead log if that was asked for; without `checkpoints`, refuse to."""
        asked = []
        while not self._emptying.empty():
            asked.append(self._emptying.get())
        if not asked:
            return
        error: LogUnavailable | None = self._refusal()
        try:
            if checkpoints is not None and checkpoints.empty(rewrite=any(rewrite for _, rewrite in asked)):
                error = None
        except sqlite3.Error as failure:
            self._examine(failure)
        self._post(_resolve_all, [emptied for emptied, _ in asked], error)

    def _examine(self, error: BaseException) -> None:
        if damaged(error):
            self.damaged(error)

    def _end(self, failure: BaseException | None) -> None:
        """The thread has ended: nothing is written any more. Settle all that wait for it."""
        if failure is not None and not self.opened.done():
            self.opened.set_exception(failure)
        elif failure is not None and self._stopping:
            logger.error("The SQLite log could not be closed: %s. The next start recovers it.", failure)
        elif failure is not None:
            logger.critical("The thread that writes the SQLite log has failed. Restart the server.", exc_info=failure)
            self._trouble = Trouble("has nobody who writes it", final=True)
            self._on_lost()
        self._stopping, self.healthy = True, False
        while not self._queue.empty():
            _settle([self._queue.get()], [self._refusal()])
        while not self._emptying.empty():
            _resolve_all([self._emptying.get()[0]], self._refusal())
        _resolve(self.closed)

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._stopping = True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _resolve_all(futures: list[asyncio.Future[None]], error: LogUnavailable | None) -> None:
    for future in futures:
        if error is None:
            _resolve(future)
        elif not future.done():
            future.set_exception(error)


def _settle(jobs: list[Job], results: list[Any]) -> None:
    """Tell the jobs of one transaction their outcome."""
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, TwinwireError):
            if not job.future.done():
                job.future.set_exception(result)
            continue
        if job.then is not None:
            job.then(result)
        if not job.future.done():
            job.future.set_result(result)
