"""Several worker processes behind one listening socket: started, watched, replaced, ended.

The parent serves nothing and loads nothing; it forks before there is a thread or a loop. SIGTERM and SIGINT end the
workers as they would end a single server (a second SIGINT kills them), SIGHUP replaces them one by one, the oldest
first: each new one is ready before an old one drains. A worker that dies is started again; one that cannot start ends
all. A private store, if they share one, is there before them and after them.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import NoReturn

from twinwire.serving.store import PrivateStore
from twinwire.telemetry.shared import Board, Slot

logger = logging.getLogger("twinwire.serving")

PAUSE_SECONDS = 1.0  # a worker that dies is started again no sooner than this after its start
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1}
_PID = struct.Struct("i")

Work = Callable[[Callable[[], None]], None]


class Supervisor:
    """Keeps `count` processes that each run `work(ready)`; `all_ready` is called when the first ones all are.

    In a worker, `slot` is its place on the board of metrics that all workers share. They may use the `store`, which is
    kept as they are.
    """

    slot: Slot | None = None

    def __init__(
        self, count: int, work: Work, all_ready: Callable[[], None], store: PrivateStore | None = None
    ) -> None:
        self._count = count
        self._store = store
        self._work = work
        self._all_ready = all_ready
        self._started: set[int] = set()  # pids; those that drain included
        self._board = Board(count + 1)  # one more while one is replaced
        self._slots: dict[int, Slot] = {}  # by pid
        self._serving: set[int] = set()  # of these, the ones that have become ready
        self._forked = 0.0
        self._to_replace: deque[int] = deque()
        self._said_ready = False
        self._stopping: signal.Signals | None = None
        self._failed = 0
        self._ending = mmap.mmap(-1, 1)  # which all workers see
        self._parent = os.getpid()
        self._news, self._news_of_workers = os.pipe()
        self._life, self._life_of_parent = os.pipe()  # closes with the parent, however it ends
        os.set_blocking(self._news, False)

    def run(self) -> None:
        """Run until a signal comes or a worker cannot start; then end the process in the same way.

        Raise `SettingsError` if the store cannot start.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        with self._store or nullcontext():
            for _ in range(self._count):
                self._fork()
            self._supervise()
        if self._stopping is not None:
            signal.signal(self._stopping, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.kill(os.getpid(), self._stopping)
        raise SystemExit(self._failed)

    def ends(self) -> bool:
        """Return, in a worker, whether all workers end, and with them the store: this one is not only replaced."""
        return self._ending[0] == 1

    def _supervise(self) -> None:
        while self._started:
            caught = signal.sigtimedwait(_SIGNALS, PAUSE_SECONDS / 4)
            if caught is not None and caught.si_signo in {signal.SIGTERM, signal.SIGINT}:
                self._stop(signal.Signals(caught.si_signo))
            elif caught is not None and caught.si_signo == signal.SIGHUP and not self._to_replace:
                self._to_replace.extend(sorted(self._serving))
            self._hear()
            self._reap()
            self._keep_up()

    def _fork(self) -> None:
        slot = self._board.take()
        pid = os.fork()
        if pid == 0:
            self.slot = slot
            self._become_worker()
        self._slots[pid] = slot
        self._started.add(pid)
        self._forked = time.monotonic()

    def _become_worker(self) -> NoReturn:
        code = 1
        try:
            os.close(self._life_of_parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._work(self._worker_ready)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # the process ends here, whatever ends it
            logger.critical("A worker failed.", exc_info=True)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _worker_ready(self) -> None:
        """In a worker, in its loop: tell the parent, and end when it is no more."""
        os.write(self._news_of_workers, _PID.pack(os.getpid()))
        self._signal(self._parent, signal.SIGUSR1)
        loop = asyncio.get_running_loop()

        def orphaned() -> None:
            loop.remove_reader(self._life)
            self._ending[0] = 1
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(self._life, orphaned)

    def _hear(self) -> None:
        """Note the workers that have become ready, and stop one to be replaced for each."""
        try:
            news = os.read(self._news, 64 * _PID.size)
        except BlockingIOError:
            return
        for (pid,) in _PID.iter_unpack(news):
            self._serving.add(pid)
            if self._said_ready and self._to_replace:
                self._signal(self._to_replace.popleft(), signal.SIGTERM)
        if not self._said_ready and len(self._serving) == self._count:
            self._said_ready = True
            self._all_ready()

    def _reap(self) -> None:
        """Collect the workers that have died."""
        while self._started:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if self._store is not None and self._store.died(pid):
                continue
            self._started.discard(pid)
            if (
                slot := self._slots.pop(pid, None)
            ) is not None:  # else an orphan, which PID 1 of a container has to reap
                self._board.give_back(slot)
            code = os.waitstatus_to_exitcode(status)
            if pid in self._serving:
                self._serving.discard(pid)
                if self._stopping is None and code != -signal.SIGTERM:
                    logger.error("The worker %d died (%d). Another takes its place.", pid, code)
            elif self._stopping is None and not self._said_ready and not self._failed:
                self._failed = code or 1
                self._stop(None)

    def _keep_up(self) -> None:
        """Start the workers that are missing: for dead ones, and, one at a time, for those to be replaced."""
        if self._store is not None:
            self._store.keep()
        self._to_replace = deque(pid for pid in self._to_replace if pid in self._started)
        wanted = self._count + bool(self._to_replace)
        starting = self._started - self._serving
        paused = time.monotonic() - self._forked < PAUSE_SECONDS
        if not (self._stopping or self._failed or starting or paused) and len(self._started) < wanted:
            self._fork()

    def _stop(self, reason: signal.Signals | None) -> None:
        again = self._stopping is not None and reason == signal.SIGINT
        self._stopping = self._stopping or reason
        self._ending[0] = 1
        for pid in self._started:
            self._signal(pid, signal.SIGKILL if again else signal.SIGTERM)

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
