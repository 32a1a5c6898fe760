"""`twinwire serve --workers 2` without a log: its processes, its private store and the folder of that."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from support.processes import Process, state

AGENT = """
import asyncio, os
from twinwire import StreamEvent

async def counter(request):
    yield StreamEvent("PROCESS", {"pid": os.getpid()})
    for n in range(int(request.message)):
        yield StreamEvent("LLM_CHUNK", {"content": f"{n} ", "delta": f"{n} "})
        await asyncio.sleep(0.02)

async def lasting(request):
    first = 0 if request.past is None else request.past.state or 0
    for n in range(first, int(request.message)):
        yield StreamEvent("LLM_CHUNK", {"content": f"{n} ", "delta": f"{n} "})
        await request.checkpoint(n + 1)
        await asyncio.sleep(0.02)
        if os.path.exists("enough"):
            break

lasting.resumable = True
"""
"""An agent whose runs end with their process, and one whose runs go on in another."""


def children(pid: int) -> list[int]:
    """The processes that this one has started, those that are dead left out."""
    with suppress(FileNotFoundError, ProcessLookupError):
        found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return [child for child in found if state(child) not in "XZ"]
    return []


def name(pid: int) -> str:
    """The name of a process's program."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


class Served(Process):
    """A supervisor of two workers that share a private store, whose folder is below `temporary`."""

    def __init__(
        self, folder: Path, *flags: str, agent: str = "counter", environ: Mapping[str, str] | None = None
    ) -> None:
        (folder / "mine.py").write_text(AGENT)
        self.temporary = Path(tempfile.mkdtemp(prefix="tw-"))  # pytest's own are too long for a socket
        super().__init__(
            *("serve", f"mine:{agent}", "--workers", "2", "--port", "0", *flags),
            cwd=folder,
            environ={"TMPDIR": str(self.temporary), **(environ or {})},
        )

    def __exit__(self, *error: object) -> None:
        left = self.processes()
        super().__exit__(*error)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        shutil.rmtree(self.temporary)

    def ready(self) -> str:
        self.line = super().ready()
        return self.line

    def processes(self) -> set[int]:
        """All of the command's processes but the supervisor: workers, the keeper, the store."""
        first = children(self.popen.pid)
        return {*first, *(pid for child in first for pid in children(child))}

    @property
    def keeper(self) -> int:
        """The pid of the process that keeps the store."""
        (found,) = (pid for pid in children(self.popen.pid) if any("server" in name(child) for child in children(pid)))
        return found

    @property
    def store(self) -> int:
        """The pid of the store."""
        (found,) = children(self.keeper)
        return found

    def workers(self) -> set[int]:
        return super().workers() - {pid for pid in super().workers() if children(pid)}

    @property
    def folders(self) -> list[Path]:
        """The folders of private stores."""
        return [*self.temporary.glob("twinwire-*")]

    def gone(self, pids: set[int]) -> bool:
        """Whether nothing is left of these processes, nor of any store's folder."""
        return self.folders == [] and {state(pid) for pid in pids} <= {"X", "Z"}
