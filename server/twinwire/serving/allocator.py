"""Give free memory back to the operating system: glibc keeps what was in use once.

By itself glibc returns the top of its heap only, which a few small blocks keep from shrinking: a crowd that had gone
left 150 MiB, and 80 MiB with the settings of mallopt(3). malloc_trim(3) returns every free page, in 0.1 ms a MiB.
With another allocator, or a glibc older than 2.33, this does nothing.
"""

from __future__ import annotations

import ctypes
from mmap import PAGESIZE
from pathlib import Path
from time import monotonic, thread_time
from typing import Any

SLACK_BYTES = 8 * 2**20  # of free memory that a process may keep
LOOK_SECONDS = 2.0
SHARE = 100  # looks take 1 % of the time at most: mallinfo2 walks all free blocks, 100,000 of them in 20 ms

_STATM = Path("/proc/self/statm")


class _Usage(ctypes.Structure):
    """The struct that mallinfo2 returns; see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * PAGESIZE


class Allocator:
    """Trims the heap of this process when that is worth it.

    What is resident and not in use by callers of malloc is code, stacks and Python's own arenas, and what malloc keeps.
    The heap is trimmed if that has grown by `SLACK_BYTES` since it was least, or since the last trim.
    """

    def __init__(self) -> None:
        self._due = 0.0
        self._resident: int | None = None  # the least that was seen
        self._unused = 0  # what was resident and not in use: the least since the last trim
        try:
            library: Any = ctypes.CDLL(None)
            self._info, self._trim = library.mallinfo2, library.malloc_trim
        except (AttributeError, TypeError):  # another allocator; not POSIX
            self._due = float("inf")
        else:
            self._info.restype = _Usage

    def look(self) -> None:
        """Trim the heap if it is worth it. A process that has not grown pays for reading its size."""
        began = monotonic()
        if began < self._due:
            return
        worked = thread_time()
        resident = _resident()
        if self._resident is None:
            self._resident, self._unused = resident, resident - self._in_use()
        self._resident = min(self._resident, resident)
        if resident - self._resident >= SLACK_BYTES:
            in_use = self._in_use()
            self._unused = min(self._unused, resident - in_use)
            if resident - in_use - self._unused >= SLACK_BYTES:
                self._trim(0)
                self._unused = _resident() - in_use
        self._due = began + max(LOOK_SECONDS, (thread_time() - worked) * SHARE)

    def _in_use(self) -> int:
        usage = self._info()
        return int(usage.uordblks + usage.hblkhd)
