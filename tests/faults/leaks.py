"""Whether a server is as it was before a scenario: no run, follower, connection, task or file descriptor more."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from support.serving import Running

SECONDS = 15


def descriptors(pid: int | None = None) -> int:
    """How many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid or os.getpid()}/fd"))  # noqa: PTH208 - counted often


def resident(pid: int) -> int:
    """A process's resident memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _left(server: Running, tasks: int, fds: int) -> dict[str, int]:
    gc.collect()
    found = {
        "runs": len(server.runs),
        "tasks of runs": len(server.runs._tasks),
        "followers elsewhere": len(server.runs._elsewhere),
        "connections": len(server.service.heartbeats.pumps),
        "connections counted": server.service.limiter._open.total(),
        "tasks": len(asyncio.all_tasks()) - tasks,
        "descriptors": descriptors() - fds,
    }
    return {name: count for name, count in found.items() if count > 0}


@asynccontextmanager
async def leakless(server: Running) -> AsyncIterator[None]:
    """Fails where, some seconds after the block, anything is left of it on this server, or in this process.

    The grace of its runs is over with the block: those that nobody follows end soon.
    """
    tasks, fds = len(asyncio.all_tasks()), descriptors()
    yield
    deadline = asyncio.get_running_loop().time() + SECONDS
    while left := _left(server, tasks, fds):
        assert asyncio.get_running_loop().time() < deadline, left
        for run in tuple(server.runs._live.values()):
            run.followers.wait(0.0)
        await asyncio.sleep(0.05)


async def settled(url: str, pid: int, fds: int) -> None:
    """The same of a server in a process of its own, which had `fds` descriptors before."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
                lines = (await client.get(f"{url}/metrics")).text.splitlines()
            open_ones = [line for line in lines if line.startswith(("twinwire_connections{", "twinwire_runs_live "))]
            assert len(open_ones) == 3
            if all(line.endswith(" 0.0") for line in open_ones) and descriptors(pid) <= fds + 1:
                return
            await asyncio.sleep(0.05)
