"""What the SQLite log keeps, on disk and in memory, and that deleting the rest holds nobody up."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from msgspec import structs

from support.logs import Folding, append, records, run_info, started
from support.serving import until
from support.sqlite_logs import ROOMY, Clock, at, counted, read
from twinwire.log.sqlite.log import TAIL_BYTES, TAIL_EVENTS, SqliteLog
from twinwire.protocol.errors import CursorGone, RunNotFound
from twinwire.protocol.events import Record


async def test_older_pages_come_from_the_file(tmp_path: Path) -> None:
    """Of a run that goes on only the newest events are in memory; a follower from the start gets all of them."""
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log)
        batch = records(run_id, 0, 5000, size=100)
        for start in range(0, 5000, 500):
            await append(log, run_id, start, batch[start : start + 500])
            tail = log._live[run_id].tail
            assert len(tail._records) <= TAIL_EVENTS
            assert tail.size <= TAIL_BYTES
        assert await read(log, run_id) == batch
        for after in (0, tail.first - 2, tail.first - 1, tail.first, 4999, 5000):
            page = await log.page(run_id, after, 10)
            assert list(page.records) == batch[after : after + 10]
            assert (page.first, page.last, page.ended) == (1, 5000, False)
        for after in (5001, 2**63 - 1):
            with pytest.raises(CursorGone):
                await log.page(run_id, after, 10)


async def test_a_follower_who_lags(tmp_path: Path) -> None:
    """One who reads from the file while the run goes on, and ends, sees each event once and wakes for the rest."""
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log)
        news = asyncio.Event()
        leave = log.subscribe(run_id, news.set)
        batch = records(run_id, 0, 6000, size=100, end=True)

        async def write() -> None:
            for start in range(0, 6000, 50):
                await append(log, run_id, start, batch[start : start + 50])

        writing = asyncio.create_task(write())
        seen: list[Record] = []
        ended = False
        while not ended:
            page = await log.page(run_id, len(seen), 37)
            seen.extend(page.records)
            ended = page.ended and len(seen) == page.last
            if not page.records and not ended:
                await news.wait()
                news.clear()
        assert seen == batch
        await writing
        assert run_id in log._live
        leave()
        assert log._live == {}


async def test_nothing_stays_in_memory(tmp_path: Path) -> None:
    """A run that has ended and that nobody follows is only in the file; one that goes on stays."""
    async with at(tmp_path / "log.db") as log:
        running = await started(log, 2)
        for _ in range(20):
            await started(log, 2, end=True)
        assert set(log._live) == {running}
        assert log.subscribe(running, lambda: None) is not None


async def test_retention(tmp_path: Path) -> None:
    """A run is forgotten when its end is long ago, with its key and its events, also over a restart; others stay."""
    clock = Clock()
    limits = structs.replace(ROOMY, retention=60.0)
    async with at(tmp_path / "log.db", limits, clock) as log:
        info = await log.create(run_info("u"), idempotency_key="k")
        await append(log, info.run_id, 0, records(info.run_id, 0, 2000, end=True, size=100))
        running = await started(log, 3)
        clock.now += 59
        assert (await log.state(info.run_id)).last == 2000
    async with at(tmp_path / "log.db", limits, clock) as log:
        late = await started(log, 2, end=True)
        assert (await log.state(info.run_id)).last == 2000
        clock.now += 1.5
        async with asyncio.timeout(20):
            while await log.find("u", "k") is not None:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.01)
        with pytest.raises(RunNotFound):
            await log.page(info.run_id, 0, 10)
        assert [record.seq for record in await read(log, running)] == [1, 2, 3, 4]
        assert len(await read(log, late)) == 2
        await until(lambda: counted(tmp_path / "log.db", "count(*) FROM events") == 6)
        await until(lambda: counted(tmp_path / "log.db", "count(*) FROM garbage") == 0)


async def test_the_state_of_a_trimmed_run(tmp_path: Path) -> None:
    """A run that was trimmed leaves its state at its end; it counts as events do, and is forgotten with the run."""
    clock, path = Clock(), tmp_path / "log.db"
    log = SqliteLog(f"sqlite:///{path}", structs.replace(ROOMY, max_events=10, retention=60.0), clock)
    await log.open(Folding())
    try:
        run_id = await started(log, 30)
        assert await log.folded(run_id) is None
        await append(log, run_id, 30, records(run_id, 30, 1, end=True))
        assert await log.folded(run_id) == Folding.state
        size = counted(path, "sum(length(body)) FROM events") + counted(path, "sum(length(state)) FROM folded")
        assert counted(path, "sum(size) FROM runs") == size
        clock.now += 61
        await started(log, 1)
        await until(lambda: counted(path, "count(*) FROM folded") == 0)
    finally:
        await log.close()


async def test_deleting_holds_nobody_up(tmp_path: Path) -> None:
    """While 10,000 events are deleted the loop stays free, appends are committed in between, and the file shrinks."""
    clock = Clock()
    async with at(tmp_path / "log.db", structs.replace(ROOMY, retention=60.0), clock) as log:
        for _ in range(10):
            await started(log, 1000, end=True)
        run_id = await started(log, 1)
        loop = asyncio.get_running_loop()
        gaps, ticked, ticking = [0.0], time.monotonic(), True

        def tick() -> None:
            nonlocal ticked
            gaps.append(time.monotonic() - ticked)
            ticked = time.monotonic()
            if ticking:
                loop.call_later(0.001, tick)

        size = counted(tmp_path / "log.db", "page_count * page_size FROM pragma_page_count, pragma_page_size")
        tick()
        clock.now += 61
        appended, slowest, left = 1, 0.0, 10_000
        while left:
            began = time.monotonic()
            await append(log, run_id, appended, records(run_id, appended, 1))
            slowest = max(slowest, time.monotonic() - began)
            appended += 1
            left = await loop.run_in_executor(None, counted, tmp_path / "log.db", f"count(*) - {appended} FROM events")
        ticking = False
        assert max(gaps) < 0.25
        assert slowest < 1.0
        assert appended > 3
        assert [record.seq for record in await read(log, run_id)] == list(range(1, appended + 1))
        await until(
            lambda: (
                counted(tmp_path / "log.db", "page_count * page_size FROM pragma_page_count, pragma_page_size")
                < size / 4
            )
        )


async def test_max_bytes(tmp_path: Path) -> None:
    """When all is full the runs that ended first go; without one, the run that appends loses its own oldest events."""
    async with at(tmp_path / "log.db", structs.replace(ROOMY, max_bytes=100_000)) as log:
        quiet = await started(log, 3)
        gone, kept = await started(log, 20, end=True), await started(log, 20, end=True)
        running = await started(log)
        size = counted(tmp_path / "log.db", "sum(length(body)) FROM events")
        batch = records(running, 0, 1, size=100_000 - size)
        await append(log, running, 0, batch)
        await until(lambda: counted(tmp_path / "log.db", "count(*) FROM runs") == 3)
        with pytest.raises(RunNotFound):
            await log.state(gone)
        assert (await log.state(kept)).last == 20
        for seq in range(1, 100):
            await append(log, running, seq, records(running, seq, 1, size=3000))
        await until(lambda: counted(tmp_path / "log.db", "count(*) FROM runs") == 2)
        for seq in range(100, 200):
            await append(log, running, seq, records(running, seq, 1, size=3000))
            assert counted(tmp_path / "log.db", "sum(length(body)) FROM events") <= 100_000 + 4000
        state = await log.state(running)
        assert state.last == 200
        assert state.first > 150
        assert [record.seq for record in await read(log, running, state.first - 1)] == [*range(state.first, 201)]
        with pytest.raises(CursorGone) as caught:
            await log.page(running, 0, 10)
        assert (caught.value.first, caught.value.last) == (state.first, 200)
        assert len(await read(log, quiet)) == 3


@pytest.mark.parametrize("bound", [1, 2, 7, 8, 100])
async def test_max_events(tmp_path: Path, bound: int) -> None:
    """A run never keeps more than its bound, always its newest event, and at least seven eighths of the bound."""
    async with at(tmp_path / "log.db", structs.replace(ROOMY, max_events=bound)) as log:
        run_id = await started(log)
        for seq in range(3 * bound):
            await append(log, run_id, seq, records(run_id, seq, 1))
            state = await log.state(run_id)
            count = counted(tmp_path / "log.db", "count(*) FROM events")
            assert (state.first, state.last) == (seq + 2 - count, seq + 1)
            assert min(seq + 1, max(bound * 7 // 8, 1)) <= count <= bound
        await append(log, run_id, 3 * bound, records(run_id, 3 * bound, 5 * bound, end=True))
        state = await log.state(run_id)
        assert state.last == 8 * bound
        assert state.terminal is not None
        assert 1 <= state.last - state.first + 1 <= bound


async def test_conversations(tmp_path: Path) -> None:
    """A conversation keeps its newest turns; it is forgotten when unused for long, or when there are too many."""
    clock = Clock()
    limits = structs.replace(ROOMY, max_sessions=3, session_bytes=100, session_idle=60.0)
    async with at(tmp_path / "log.db", limits, clock) as log:
        for number in range(10):
            await log.remember(("u", "s"), f"{number}".rjust(20), "a" * 20)
        assert [message["content"].strip() for message in (await log.history(("u", "s")))[::2]] == ["8", "9"]
        assert await log.history(("u", None)) == await log.history((None, "s")) == []
        await log.remember(("u", "s"), "x" * 101, "")
        assert await log.history(("u", "s")) == []
        clock.now += 59
        await log.remember(("a", None), "q", "a")
        clock.now += 59
        assert len(await log.history(("a", None))) == 2
        await until(lambda: counted(tmp_path / "log.db", "count(*) FROM sessions") == 1)
        for number in range(5):
            clock.now += 1
            await log.remember((f"{number}", None), "q", "a")
        await until(lambda: counted(tmp_path / "log.db", "count(*) FROM sessions") == 3)
        assert [len(await log.history((f"{number}", None))) for number in range(5)] == [0, 0, 2, 2, 2]
        clock.now += 60.5
        assert await log.history(("4", None)) == []
