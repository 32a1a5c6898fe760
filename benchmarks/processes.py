"""The programs a benchmark runs beside itself, each on a processor of its own choice, and what they cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")


class Program:
    """A program that runs, and the first line it printed."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        self.pid = process.pid
        self.line = line

    def cpu(self) -> float:
        """Seconds of CPU so far, user and system, to the nanosecond where there is a clock for it."""
        if sys.platform == "linux":
            return time.clock_gettime((~self.pid << 3) | 2)  # what clock_getcpuclockid(3) gives for a process
        return sum(self._times()) / _TICKS

    def kernel(self) -> float:
        """Seconds of CPU in the system so far."""
        return self._times()[1] / _TICKS

    def _times(self) -> tuple[int, int]:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]), int(fields[12])

    def rss(self) -> int:
        """Bytes of resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def program(
    *command: str | Path, processor: int | None = None, environ: dict[str, str] | None = None
) -> Iterator[Program]:
    """Run a program until the block ends; ready when it has printed a line."""

    def pin() -> None:
        if processor is not None and (os.cpu_count() or 1) > processor:
            os.sched_setaffinity(0, {processor})

    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
        cwd=ROOT,
        preexec_fn=pin,  # noqa: PLW1509 - nothing here has threads
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{command[0]} did not start")
        yield Program(process, line.strip())
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def twinwire(
    *flags: str, environ: dict[str, str] | None = None, processor: int | None = 0
) -> Iterator[tuple[Program, int]]:
    """A Twinwire server and its port."""
    command: Sequence[str | Path] = [Path(sys.executable).parent / "twinwire", "serve", "--port", "0", *flags]
    with program(*command, processor=processor, environ=environ) as server:
        yield server, int(server.line.partition("http://")[2].split()[0].rpartition(":")[2])


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, p99.9 and the largest."""
    ordered = sorted(values)
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[min(len(ordered) - 1, int(len(ordered) * rank))] for name, rank in ranks.items()}
