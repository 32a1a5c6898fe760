"""The programs a benchmark runs beside itself, and what they cost; what is measured has a processor of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if not hasattr(os, "sched_getaffinity"):
    raise SystemExit("benchmarks: they need what Linux has (processor affinity, /proc): run them there")

ROOT = Path(__file__).parents[1]
_FIRST, *_OTHERS = sorted(os.sched_getaffinity(0))
BESIDE = _OTHERS or [_FIRST]
"""The processors of all that is not measured; where there is but one it is shared."""
_TICKS = os.sysconf("SC_CLK_TCK")


def waited(pid: int | str = "self") -> float:
    """Seconds in which a process was ready and others had its processor; 0 where the kernel does not count them."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process so far, user and system."""
    return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) gives for a process


class Program:
    """A program that runs, and the first line it printed."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        self.pid = process.pid
        self.line = line

    def cpu(self) -> float:
        """Seconds of CPU so far, user and system."""
        return cpu_of(self.pid)

    def kernel(self) -> float:
        """Seconds of CPU in the system so far."""
        return int(Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[12]) / _TICKS

    def waited(self) -> float:
        """See `waited`."""
        return waited(self.pid)

    def rss(self) -> int:
        """Bytes of resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def step_aside() -> None:
    """Leave the first processor to what is measured; this process and those it starts run on the others."""
    os.sched_setaffinity(0, BESIDE)


@contextmanager
def program(*command: str | Path, measured: bool = False, environ: dict[str, str] | None = None) -> Iterator[Program]:
    """Run a program until the block ends, on the first processor if it is measured; ready when it prints a line."""

    def pin() -> None:
        os.sched_setaffinity(0, [_FIRST] if measured else BESIDE)

    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
        cwd=ROOT,
        preexec_fn=pin,  # noqa: PLW1509 - nothing here has threads
    ) as process:
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
    *flags: str, environ: dict[str, str] | None = None, under: Sequence[str] = ()
) -> Iterator[tuple[Program, int]]:
    """A Twinwire server, which is measured, and its port; `under` is a command that runs its command."""
    script = Path(sys.executable).parent / "twinwire"
    command: Sequence[str | Path] = [*under, sys.executable, script, "serve", "--port", "0", *flags]
    with program(*command, measured=True, environ=environ) as server:
        yield server, int(server.line.partition("://")[2].split()[0].rpartition(":")[2])


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, p99.9 and the largest."""
    ordered = sorted(values)
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[min(len(ordered) - 1, int(len(ordered) * rank))] for name, rank in ranks.items()}
