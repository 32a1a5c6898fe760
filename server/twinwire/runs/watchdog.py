"""A thread that notices an agent which holds the event loop, while it does, and logs where.

An agent that blocks, such as in `time.sleep` or a long calculation, keeps every run and connection of the process
waiting. The thread looks at the runs, and so a step of an agent costs nothing more. It is there while runs go on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from twinwire.fence import within

if TYPE_CHECKING:
    from twinwire.runs.run import Run

logger = logging.getLogger("twinwire.runs")

HELD_SECONDS = 0.25
"""An agent that holds the loop for longer is logged; surely one that does so for twice as long."""
TICK_SECONDS = 0.05
ASK_TICKS = 4
"""While no agent is at work the loop is asked for a turn at every so many ticks, for the sake of tasks of agents."""
IDLE_TICKS = 40
"""The thread ends after so many ticks without a run."""

_OURS = str(Path(__file__).parents[1])
_LIBRARIES = tuple({path for name, path in sysconfig.get_paths().items() if name in {"stdlib", "purelib", "platlib"}})


class Watchdog:
    """Watches the agents of the runs in `live`, a dict that the event loop's thread changes."""

    def __init__(self, live: Mapping[str, Run]) -> None:
        self._live = live
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._turned = True  # the loop, since it was asked to

    def start(self) -> None:
        """Watch the loop that runs in this thread for as long as runs go on. Idempotent."""
        with self._lock:
            if self._thread is None:
                loop, ident = asyncio.get_running_loop(), threading.get_ident()
                self._thread = threading.Thread(
                    target=self._watch, args=(loop, ident), name="twinwire watchdog", daemon=True
                )
                self._thread.start()

    def _watch(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        suspect: str | None = None
        told = False
        since = before = time.monotonic()
        for tick in itertools.count():
            if loop.is_closed():  # a run that goes on in it will never end
                self._thread = None
                return
            if not self._goes_on():
                return
            time.sleep(TICK_SECONDS)
            now, turned = time.monotonic(), self._turned
            at_work = self._at_work(None if turned else ident)
            late, before = now - before > 2 * TICK_SECONDS, now  # of a machine that is too busy no agent is to blame
            if turned or late or at_work != suspect:
                told = told and not turned and at_work == suspect  # late alone: it was told of this
                since, suspect = now, at_work
                if turned and (at_work is not None or tick % ASK_TICKS == 0):
                    self._turned = False
                    try:
                        loop.call_soon_threadsafe(self._turn)
                    except RuntimeError:  # the loop is closed
                        self._thread = None
                        return
            elif suspect is not None and not told and now - since > HELD_SECONDS:
                told = True
                self._tell(suspect, ident)

    def _turn(self) -> None:
        self._turned = True

    def _goes_on(self) -> bool:
        """Wait while no run goes on. Return False, and forget the thread, if none has come by the end of the wait."""
        for _ in range(IDLE_TICKS):
            if self._live:
                return True
            time.sleep(TICK_SECONDS)
        with self._lock:
            if self._live:
                return True
            self._thread = None
            return False

    def _at_work(self, ident: int | None) -> str | None:
        """Return the run whose agent is being carried on at this moment, also in a task of its own if `ident` is given.

        That is the event loop's thread. No run is kept beyond this call.
        """
        found = next((run_id for run_id, run in list(self._live.items()) if run._at_work), None)
        if found is None and ident is not None:
            found = within(sys._current_frames().get(ident))
        return found

    def _tell(self, run_id: str, ident: int) -> None:
        run = self._live.get(run_id)
        if run is not None:
            logger.warning(
                "The agent %s has held the event loop for longer than %d ms in the run %s, at %s. Nothing else is"
                " served meanwhile. It must await what it waits for, or run in a thread: twinwire.from_thread.",
                run.info.agent,
                1000 * HELD_SECONDS,
                run_id,
                _place(ident),
            )


def _place(ident: int) -> str:
    """Return the line that a thread is at: of the agent's own code, or else of the library that it has called."""
    frame = sys._current_frames().get(ident)
    innermost = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OURS):
            break
        place = f"{file}:{frame.f_lineno}"
        if not file.startswith((*_LIBRARIES, "<")):
            return place
        innermost, frame = innermost or place, frame.f_back
    return innermost or "a line that is not known"
