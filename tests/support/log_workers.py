"""The processes that use one log, as the machine in `test_log_machine` ends them: one class for each log."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set as AbstractSet
from pathlib import Path

from msgspec import structs

from support.logs import LIMITS, records
from support.redis_server import fresh
from support.redis_workers import Listener, die
from support.sqlite_logs import Clock
from twinwire.log import Store
from twinwire.log.memory import RUN_BYTES, MemoryLog
from twinwire.log.orphan import Orphan
from twinwire.log.redis.log import RedisLog
from twinwire.log.redis.orphans import _Met
from twinwire.log.sqlite.log import SqliteLog
from twinwire.log.tail import RECORD_BYTES
from twinwire.protocol.events import Record

BOUND = structs.replace(LIMITS, max_events=16, max_bytes=10**6, retention=60.0)
MEMORY = 15_000


class Taker(Listener):
    """An `Owner` that goes on with what it is `offered` if it `takes` runs: the claim's one record follows."""

    log: Store

    def __init__(self) -> None:
        super().__init__()
        self.takes = False
        self.offered: dict[str, Orphan] = {}

    async def take_over(self, orphan: Orphan) -> bool:
        run_id = orphan.info.run_id
        assert run_id not in self.offered
        self.offered[run_id] = orphan
        return self.takes and await self.log.claim(orphan, records(run_id, orphan.last, 1))


class Workers(ABC):
    """The processes that use one log, each with its `Taker`; `end` puts a new one in the place of one of them."""

    forgets = False  # a process takes its runs with it
    outlives = False  # another can go on with them

    def __init__(self) -> None:
        self.clock = Clock()
        self.folder = Path(tempfile.mkdtemp(prefix="log-machine-"))
        self.logs: list[Store] = []
        self.owner = Taker()

    async def open(self, log: Store) -> Store:
        self.owner.offered.clear()
        self.owner.log = log
        await log.open(self.owner)
        return log

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def end(self, at: int, *, crash: bool) -> None: ...

    async def close(self) -> None:
        for log in self.logs:
            await log.close()
        shutil.rmtree(self.folder)

    @abstractmethod
    def check(self, kept: Mapping[str, Sequence[Record]], going: AbstractSet[str]) -> None:
        """What only this log can be asked: what is kept of each run, and the runs that go on or are followed."""


class Memory(Workers):
    forgets = True

    async def start(self) -> None:
        self.logs = [await self.open(MemoryLog(structs.replace(BOUND, max_bytes=MEMORY), self.clock))]

    async def end(self, at: int, *, crash: bool) -> None:  # noqa: ARG002 - it makes no difference
        await self.start()

    def check(self, kept: Mapping[str, Sequence[Record]], going: AbstractSet[str]) -> None:  # noqa: ARG002 - the others'
        """The count of bytes is right, and bounded: a run that goes on keeps its newest event whatever others take."""
        [log] = self.logs
        assert isinstance(log, MemoryLog)
        sizes = [len(record.body) + RECORD_BYTES for batch in kept.values() for record in batch]
        ends = [len(entry.outcome) + len(entry.folded) for entry in log._runs.values()]
        least = RUN_BYTES * len(kept) + sum(ends)
        assert log.size == sum(sizes) + least
        assert sum(sizes) <= max(MEMORY - least, 0) + len(kept) * max(sizes, default=0)
        assert set(log._runs) == set(kept)
        assert set(log._keys.values()) <= set(kept)


class Sqlite(Workers):
    outlives = True
    lives = 0

    async def start(self) -> None:
        folder = self.folder / str(self.lives)
        folder.mkdir(exist_ok=True)
        self.logs = [await self.open(SqliteLog(f"sqlite:///{folder}/log.db", BOUND, self.clock))]

    async def end(self, at: int, *, crash: bool) -> None:
        """A crash leaves the files as they are at that moment."""
        if crash:
            shutil.copytree(self.folder / str(self.lives), self.folder / str(self.lives + 1))
            self.lives += 1
        await self.logs[at].close()
        await self.start()

    def check(self, kept: Mapping[str, Sequence[Record]], going: AbstractSet[str]) -> None:  # noqa: ARG002 - the others'
        """Memory holds nothing else than these runs."""
        [log] = self.logs
        assert isinstance(log, SqliteLog)
        assert set(log._live) <= going


class Redis(Workers):
    """Two workers. The lease of one that is gone runs out when the machine says so, and the other one sweeps."""

    outlives = True
    url = ""

    async def start(self) -> None:
        self.url = fresh("&lease=60")
        self.dead: list[Store] = []
        self.logs = [await self.open(RedisLog(self.url, BOUND)) for _ in range(2)]

    async def end(self, at: int, *, crash: bool) -> None:
        gone, other = self.logs[at], self.logs[1 - at]
        assert isinstance(gone, RedisLog)
        assert isinstance(other, RedisLog)
        if crash:
            die(gone)
            self.dead.append(gone)
            await other._link.call("DEL", other._keys.worker(gone.worker))
        else:
            await gone.close()
        self.logs[at] = await self.open(RedisLog(self.url, BOUND))
        self.owner.log = other
        for run_id, owner in (await other._leases._orphans()).items():
            offered = await other._orphans._can_go_on(run_id)
            if offered:
                await other._orphans._offer(run_id, _Met(owner, 0.0))
            if not (offered and self.owner.takes):
                await other._orphans.interrupt(run_id, owner)

    async def close(self) -> None:
        for log in self.dead:
            await log.close()
        await super().close()

    def check(self, kept: Mapping[str, Sequence[Record]], going: AbstractSet[str]) -> None:  # noqa: ARG002 - the others'
        """Memory holds nothing else than these runs."""
        for log in self.logs:
            assert isinstance(log, RedisLog)
            assert set(log._reader.held) <= going
