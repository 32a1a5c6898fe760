"""The processes that use one log one after the other, as the tests of its take-over have them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from support.logs import LogFactory, Nobody, append, records, run_info
from support.serving import until
from twinwire.log import RunInfo, Store
from twinwire.log.orphan import Orphan

Answer = Callable[[Store, Orphan], Awaitable[bool]]


async def claimed(log: Store, orphan: Orphan) -> bool:
    """Go on with a run: the claim's one record follows."""
    return await log.claim(orphan, records(orphan.info.run_id, orphan.last, 1))


async def refused(log: Store, orphan: Orphan) -> bool:
    """Have no such agent."""
    return False


class Heir(Nobody):
    """The `Owner` of a process that is offered runs, and answers as `answer` says. It has the runs that it took."""

    log: Store

    def __init__(self, answer: Answer = claimed) -> None:
        self._answer = answer
        self.offered: list[Orphan] = []
        self.answered = 0
        self.taken: set[str] = set()
        self.cancelled: list[str] = []

    async def take_over(self, orphan: Orphan) -> bool:
        self.offered.append(orphan)
        taken = await self._answer(self.log, orphan)
        if taken:
            self.taken.add(orphan.info.run_id)
        self.answered += 1
        return taken

    def owns(self, run_id: str) -> bool:
        return run_id in self.taken

    def cancel_here(self, run_id: str) -> None:
        self.cancelled.append(run_id)


class Processes:
    """One log in this folder, and its process. That of before ends with its runs, unless it has released them."""

    def __init__(self, factory: LogFactory, folder: Path) -> None:
        self._factory = factory
        self._folder = folder
        self.log: Store | None = None

    async def next(self, heir: Heir | None = None) -> Store:
        """End the process, and begin the next one."""
        await self.end()
        self.log = log = self._factory(self._folder)
        heir = heir or Heir(refused)
        heir.log = log
        await log.open(heir)
        return log

    async def heir(self, answer: Answer = claimed) -> Heir:
        """The same, once that one was offered a run and has answered."""
        heir = Heir(answer)
        await self.next(heir)
        await until(lambda: heir.answered > 0)
        return heir

    async def end(self) -> None:
        if self.log is not None:
            await self.log.close()


async def begun(
    log: Store, count: int = 3, *, start: bytes = b"start", user_id: str | None = None, checkpoint: bytes | None = None
) -> RunInfo:
    """A run of this worker that another process can go on with, of so many events."""
    info = run_info(user_id, owner=log.worker)
    await log.create(info, idempotency_key=None, start=start)
    if count or checkpoint is not None:
        await append(log, info.run_id, 0, records(info.run_id, 0, count), checkpoint)
    return info
